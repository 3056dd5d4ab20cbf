"use strict";
(() => {
  const $ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const table = document.getElementById("runs");
  const body = table.tBodies[0];
  const filter = document.getElementById("filter");
  const count = document.getElementById("count");
  const metric = document.getElementById("metric");

  const valueOf = (row, index) => row.cells[index].dataset.value;

  // Numbers by size, text by its letters, what is missing last in either direction.
  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, {numeric: true}) : x - y;
  }

  function sort(index, direction) {
    $("th[aria-sort]", table.tHead).forEach((head, i) =>
      head.setAttribute("aria-sort", i === index ? direction : "none"));
    const sign = direction === "descending" ? -1 : 1;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [valueOf(a, index), valueOf(b, index)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * compare(x, y);
    });
    body.append(...rows);
  }

  function select() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.dataset.text.toLowerCase();
      const matches = words.every((word) => text.includes(word));
      shown += matches;
      $(`[data-run="${row.dataset.run}"]`).forEach((element) => {
        // An SVG element has no hidden property.
        element.toggleAttribute("hidden", !matches);
      });
    }
    count.textContent = words.length ? `${shown} of ${body.rows.length}` : "";
  }

  function chooseMetric() {
    $("[data-metric]").forEach((chart) => { chart.hidden = chart.dataset.metric !== metric.value; });
  }

  function openTarget() {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.scrollIntoView();
    }
  }

  $("th[aria-sort] button", table.tHead).forEach((button) => button.addEventListener("click", () => {
    const head = button.parentElement;
    sort(head.cellIndex, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
  }));
  filter.addEventListener("input", select);
  $("input[data-column]").forEach((box) => box.addEventListener("change", () => {
    $(`[data-column="${box.dataset.column}"]:not(input)`, table).forEach((cell) => { cell.hidden = !box.checked; });
  }));
  if (metric) metric.addEventListener("change", chooseMetric);
  addEventListener("hashchange", openTarget);
  $("tr[data-run]", body).forEach((row) => {
    const lines = $(`.chart g[data-run="${row.dataset.run}"]`);
    const pick = (on) => lines.forEach((line) => line.classList.toggle("picked", on));
    row.addEventListener("mouseenter", () => pick(true));
    row.addEventListener("mouseleave", () => pick(false));
    row.addEventListener("focusin", () => pick(true));
    row.addEventListener("focusout", () => pick(false));
  });

  // A served page is loaded again when there is a newer one, and looks as it did.
  if (document.body.hasAttribute("data-live")) {
    const kept = JSON.parse(sessionStorage.getItem("report") || "{}");
    filter.value = kept.filter || "";
    if (metric && kept.metric) metric.value = kept.metric;
    (kept.columns || []).forEach(([key, shown]) => $(`input[data-column="${key}"]`).forEach((box) => {
      if (box.checked !== shown) box.click();
    }));
    (kept.open || []).forEach((id) => { const run = document.getElementById(id); if (run) run.open = true; });
    if (kept.sort) sort(...kept.sort);
    if (metric) chooseMetric();
    let version = null;
    setInterval(async () => {
      const answer = await fetch("/version").then((r) => r.text()).catch(() => null);
      if (answer === null || answer === version) return;
      if (version === null) { version = answer; return; }
      const sorted = $("th[aria-sort]", table.tHead).findIndex((h) => h.getAttribute("aria-sort") !== "none");
      sessionStorage.setItem("report", JSON.stringify({
        filter: filter.value,
        metric: metric && metric.value,
        columns: $("input[data-column]").map((box) => [box.dataset.column, box.checked]),
        open: $("details.run[open]").map((run) => run.id),
        sort: sorted < 0 ? null : [sorted, table.tHead.rows[0].cells[sorted].getAttribute("aria-sort")],
      }));
      location.reload();
    }, 3000);
  }
  select();
  openTarget();
})();
