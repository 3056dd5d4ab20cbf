"""scorelab-report: the numbers of its page, odd names, damaged runs, its size, and a browser."""

import html.parser
import json
import math
import pathlib
import re
import shutil
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from scorelab.cli import report
from scorelab.report import charts, collect, media, page, serve

ODD = "<script>alert('x')</script>\"&"
PARTS = {"floor": 1.25, "discretisation": 0.5, "prior": -0.25, "learning": 1.0}


def write_run(path, seed=0, value=2.5, width=64, loss=1.0, pictures=()):
  """A finished run of made-up numbers: the value is the sum of PARTS where it is 2.5."""
  path.mkdir(parents=True)
  config = {"seed": seed, "target": {"name": "ring", "std": None}, "network": {"width": width}}
  config["training"] = {"num_steps": 200}
  record = {"config": config, "overrides": {"network.width": width}}
  (path / "config.json").write_text(json.dumps(record))
  command = ["main.py", "--config=configs/ncsn_gmm.py", f"--config.seed={seed}"]
  environment = {"python": "3.11", "devices": ["cpu:cpu"], "command": command}
  (path / "environment.json").write_text(json.dumps(environment))
  lines = [{"step": s, "loss": loss * (2 - s / 200), "val_loss": loss} for s in (100, 200)]
  (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  numbers = {"value": value, "sem": 0.125, **PARTS}
  bare = {"value": 0.5, "sem": None, "floor": 0.25, "prior": None, "learning": None}
  rows = [
    {"sampler": sampler, "options": {"grid": "karras"}, "num_steps": steps, "nfe": nfe}
    | {"metrics": {"max_sliced_wasserstein": numbers, "energy_distance": bare}}
    for sampler, steps, nfe in (("heun", 16, 31), ("heun", 8, 15), ("ddim", 16, 16))
  ]
  (path / "evaluation.json").write_text(json.dumps({"rows": rows}))
  (path / "figures").mkdir()
  for name, size in pictures:
    noise = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path / "figures" / name)
  (path / "DONE").touch()
  return path


class Reader(html.parser.HTMLParser):
  """The page's tags with their attributes, and the cells of its tables."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.rows, self.cell, self.titles = [], [], None, []
    self.title = False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag == "tr":
      self.rows.append((dict(attrs), []))
    if tag in ("td", "th"):
      self.cell = ""
    self.title = tag == "title"

  def handle_endtag(self, tag):
    if tag in ("td", "th") and self.cell is not None:
      self.rows[-1][1].append(" ".join(self.cell.split()))
      self.cell = None
    self.title = False

  def handle_data(self, data):
    if self.cell is not None and not self.title:
      self.cell += data

  def of_runs(self):
    """The table of runs: its head, and each row by column."""
    head, *body = [(attrs, cells) for attrs, cells in self.rows if attrs.get("data-run") or cells]
    body = [cells for attrs, cells in body if "data-run" in attrs]
    return [dict(zip(head[1], cells, strict=True)) for cells in body]


def report_of(tmp_path, *places):
  out = tmp_path / "page.html"
  assert report.main([*map(str, places), "--out", str(out)]) == 0
  return out.read_text()


def test_the_numbers_of_the_table(tmp_path):
  write_run(tmp_path / "runs" / "a", seed=0, value=2.5)
  write_run(tmp_path / "runs" / "b", seed=1, value=1 / 3, width=128)
  text = report_of(tmp_path, tmp_path / "runs")
  a, b = Reader(text).of_runs()
  assert (a["run"], a["seed"], a["width"], a["state"]) == ("a", "0", "64", "● done")
  assert a["max-sliced W2"] == "2.5 ± 0.12" and b["max-sliced W2"] == "0.3333 ± 0.12"
  assert a["energy distance"] == "0.5"
  assert "name" not in a  # the target is the same
  assert "python main.py --config=configs/ncsn_gmm.py --config.seed=1" in text
  assert "floor 1.25, discretisation 0.5, prior -0.25, learning 1" in text


def test_a_bars_parts_end_at_the_value():
  numbers = collect.Numbers(2.5, 0.1, PARTS)
  found = page.segments(numbers)
  assert found == [
    ("floor", 0, 1.25),
    ("discretisation", 1.25, 1.75),
    ("prior", 1.75, 1.5),
    ("learning", 1.5, 2.5),
  ]
  bar = str(page.budget_bar(numbers, 5.0))
  widths = [float(w) for w in re.findall(r' width="([\d.]+)" y', bar)]
  # Half of the scale is half of 112 pixels: each part's share of it.
  np.testing.assert_allclose(widths, [28, 11.2, 5.6, 22.4], atol=0.06)
  assert bar.count("negative") == 1
  unknown = collect.Numbers(0.5, math.nan, dict.fromkeys(PARTS, math.nan) | {"floor": 0.25})
  assert page.segments(unknown) == [("floor", 0, 0.25)]


def test_runs_of_other_metrics_do_not_stretch_a_bar(tmp_path):
  values = [1.0, 2.0, 3.0, 1000.0]
  runs = [collect.read_run(write_run(tmp_path / str(v), value=v), str(v)) for v in values]
  assert page.scales(runs)["max_sliced_wasserstein"] < 20


def test_axes():
  axis = charts.Axis(1.0, 100.0, True, 0.0, 200.0)
  assert [axis.at(v) for v in (0.5, 1, 10, 100)] == pytest.approx([0, 0, 100, 200])
  assert axis.ticks() == [1, 10, 100]
  linear = charts.Axis(0.0, 1.0, False, 100.0, 0.0)
  assert linear.at(0.25) == 75 and linear.ticks() == [0, 0.25, 0.5, 0.75, 1]
  assert charts.chart([], "x", "y") == ""
  curve = charts.thinned([(i, i % 2) for i in range(1000)])
  assert len(curve) <= 150 and all(0.4 < y < 0.6 for _, y in curve)


def test_nothing_that_a_run_says_becomes_part_of_the_page(tmp_path):
  path = write_run(tmp_path / "runs" / "odd <b>name&", pictures=[("<i>.png", 8)])
  write_run(tmp_path / "runs" / "plain")
  for file, old, new in (
    ("config.json", "ring", ODD),
    ("environment.json", "cpu:cpu", ODD),
    ("environment.json", "configs/ncsn_gmm.py", ODD),
    ("evaluation.json", "heun", ODD),
    ("evaluation.json", "energy_distance", ODD),
    ("evaluation.json", "karras", ODD),
  ):
    text = (path / file).read_text().replace(old, json.dumps(new)[1:-1])
    (path / file).write_text(text)
  (path / "FAILED").write_text(ODD)
  text = report_of(tmp_path, tmp_path / "runs")
  reader = Reader(text)
  assert sum(tag == "script" for tag, _ in reader.tags) == 1  # our own
  assert not any(tag in ("b", "iframe") for tag, _ in reader.tags)
  assert ODD in [run["state"].removeprefix("✕ failed ") for run in reader.of_runs()]
  for tag, attributes in reader.tags:
    assert not any(name.startswith("on") for name in attributes)
    for name in ("src", "href"):
      target = attributes.get(name) or "#"
      assert target.startswith(("#", "data:")), (tag, target)


DAMAGE = {
  "half a config": ("config.json", '{"config": {"seed"', "damaged"),
  "a config that is a list": ("config.json", "[1]", "damaged"),
  "no evaluation": ("evaluation.json", None, "done"),
  "half an evaluation": ("evaluation.json", '{"rows": [{"samp', "damaged"),
  "rows of nothing": ("evaluation.json", '{"rows": []}', "done"),
  "rows that are none": ("evaluation.json", '{"rows": 3}', "damaged"),
  "metrics of text": (
    "evaluation.json",
    '{"rows": [{"sampler": "x", "metrics": {"w": {}}}]}',
    "done",
  ),
  "a torn line": ("metrics.jsonl", '{"step": 1, "loss": 2}\n{"st', "done"),
  "no numbers": ("metrics.jsonl", '{"step": "x"}\n[]\n', "done"),
  "bytes": ("metrics.jsonl", b"\xff\xfe\x00", "damaged"),
  "no environment": ("environment.json", None, "done"),
  "an environment of text": ("environment.json", '"x"', "damaged"),
  "not done": ("DONE", None, "trained"),
}


def test_runs_of_other_targets_or_sizes_share_no_chart(tmp_path):
  """A chart has one floor: that of its target and of the evaluation's sizes."""
  changes = {
    "ring": {},
    "again": {},
    "board": {"target": {"name": "checkerboard"}},
    "fewer": {"evaluation": {"num_samples": 100}},
  }
  for seed, (name, change) in enumerate(changes.items()):
    path = write_run(tmp_path / name, seed=seed)
    record = json.loads((path / "config.json").read_text())
    record["config"] |= change
    (path / "config.json").write_text(json.dumps(record))
  runs = collect.read_runs([tmp_path])
  chart = page.sampler_charts(runs)["max_sliced_wasserstein"]
  headings = [part.split("</p>")[0] for part in chart.split("<p>")[1:]]
  assert sorted(headings) == ["checkerboard", "ring", "ring, num_samples = 100"]
  alike = page.sampler_charts([run for run in runs if run.path.name in ("ring", "again")])
  assert all("<p>" not in chart and chart.count("<svg") == 1 for chart in alike.values())


@pytest.mark.parametrize(("file", "content", "state"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_shown_with_its_state(file, content, state, tmp_path):
  path = write_run(tmp_path / "runs" / "bad")
  write_run(tmp_path / "runs" / "good")
  if content is None:
    (path / file).unlink()
  else:
    (path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
  bad, good = Reader(report_of(tmp_path, tmp_path / "runs")).of_runs()
  assert bad["state"].split()[1] == state, bad["state"]
  assert good["state"] == "● done"


def test_a_run_that_has_just_begun_and_one_that_failed_early(tmp_path):
  (tmp_path / "runs" / "failed").mkdir(parents=True)
  (tmp_path / "runs" / "failed" / "FAILED").write_text("no such sampler\n")
  begun = write_run(tmp_path / "runs" / "begun")
  for name in ("DONE", "evaluation.json"):
    (begun / name).unlink()
  (begun / "metrics.jsonl").write_text('{"step": 50, "loss": 1.0}\n')
  states = [run["state"] for run in Reader(report_of(tmp_path, tmp_path / "runs")).of_runs()]
  assert states == ["◐ unfinished step 50 of 200", "✕ failed no such sampler"]


def test_an_ensembles_numbers_are_its_means(tmp_path):
  path = write_run(tmp_path / "run")
  (path / "metrics.jsonl").write_text('{"step": 200, "loss": [1.0, 3.0], "val_loss": null}\n')
  run = collect.read_run(path, "run")
  assert run.history[0]["loss"] == 2 and math.isnan(run.history[0]["val_loss"])


def test_nothing_to_show_is_one_line(tmp_path, capsys):
  assert report.main([str(tmp_path / "none")]) == 2
  assert "there is no such folder" in capsys.readouterr().err
  assert report.main([str(tmp_path)]) == 2
  assert "no run is in this folder" in capsys.readouterr().err


def test_names_are_as_short_as_they_may_be():
  paths = [pathlib.Path(p) for p in ("/r/a/1", "/r/a/2")]
  assert collect.names_of(paths) == ["1", "2"]
  paths.append(pathlib.Path("/s/a/1"))
  assert collect.names_of(paths) == ["r/a/1", "r/a/2", "s/a/1"]
  assert collect.names_of(paths[:1]) == ["a/1"]


def test_pictures_share_what_there_is(tmp_path):
  assert media.shares([10, 1000, 1000], [1, 1, 1], 510) == [10, 250, 250]
  assert media.shares([1000, 1000], [1, 4], 500) == [100, 400]
  assert media.shares([10, 20], [1, 4], 500) == [10, 20]
  paths = []
  for index in range(4):
    noise = np.random.default_rng(index).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    paths.append(tmp_path / f"{index}.png")
    Image.fromarray(noise).save(paths[-1])
  frames = [Image.fromarray(np.full((300, 400, 3), 8 * i, np.uint8)) for i in range(30)]
  frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
  (tmp_path / "bad.png").write_bytes(b"no picture")
  paths += [tmp_path / "a.gif", tmp_path / "bad.png", tmp_path / "missing.png"]
  found = media.embed(paths, 200_000)
  assert sum(len(picture.source) for picture in found) <= 200_000
  assert [bool(picture.source) for picture in found] == [True] * 5 + [False] * 2
  assert found[0].source.startswith("data:image/webp;base64,")
  # What fits stays as it is.
  assert media.embed(paths[:1], 10**6)[0].source.startswith("data:image/png;base64,")


def test_a_served_page_follows_its_runs(tmp_path):
  path = write_run(tmp_path / "runs" / "a")
  server = serve.make_server([tmp_path / "runs"], 0, "a command")
  threading.Thread(target=server.serve_forever, daemon=True).start()

  def get(where):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{where}") as answer:
      return answer.read().decode()

  try:
    first, version = get("/"), get("/version")
    assert "2.5 ± 0.12" in first and get("/version") == version
    text = (path / "evaluation.json").read_text().replace('"value": 2.5', '"value": 1.75')
    (path / "evaluation.json").write_text(text)
    assert get("/version") != version and "1.75 ± 0.12" in get("/")
    with pytest.raises(urllib.error.HTTPError):
      get("/../../etc/passwd")
  finally:
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
  """The page of thirty runs, with five figures and an animation each, and its CPU seconds."""
  folder = tmp_path_factory.mktemp("thirty")
  rng = np.random.default_rng(0)
  smooth = np.cumsum(np.cumsum(rng.normal(size=(700, 1000, 3)), axis=0), axis=1)
  smooth = np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))
  figures = folder / "figures"
  figures.mkdir()
  for name in ("budget", "girsanov", "loss", "samples", "score_error"):
    Image.fromarray(smooth).quantize(64).save(figures / f"{name}.png")
  frames = [Image.fromarray(np.roll(smooth, 9 * i, 1)[::2, ::2]) for i in range(25)]
  frames[0].save(figures / "film.gif", save_all=True, append_images=frames[1:], duration=50)
  for index in range(30):
    path = folder / "runs" / f"run-{index}"
    write_run(path, seed=index, value=2.0 + (7 * index % 30) / 10, loss=1 + index / 30)
    for figure in figures.iterdir():  # each read from a file of its own
      shutil.copy(figure, path / "figures")
  begun = time.process_time()
  page_of = folder / "page.html"
  assert report.main([str(folder / "runs"), "--out", str(page_of)]) == 0
  return page_of, time.process_time() - begun


@pytest.mark.slow
def test_thirty_runs_are_small_and_quick(thirty):
  file, seconds = thirty
  assert file.stat().st_size < 10_000_000
  reader = Reader(file.read_text())
  images = [attributes for tag, attributes in reader.tags if tag == "img"]
  assert len(images) == 30 * 6
  assert seconds < 18  # pictures are scaled on all cores: 10 s on two


@pytest.fixture(scope="module")
def browser():
  """Headless Chromium: the system's."""
  playwright = pytest.importorskip("playwright.sync_api")
  program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
  if program is None:
    pytest.skip("there is no chromium")
  with playwright.sync_playwright() as running:
    chromium = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
    yield chromium
    chromium.close()


def first_column(tab):
  rows = tab.locator("#runs tbody tr:visible th")
  return [text.strip() for text in rows.all_inner_texts()]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(thirty, browser, width, scheme):
  file, _ = thirty
  context = browser.new_context(
    viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
  )
  tab = context.new_page()
  complaints, requests = [], []
  tab.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
  tab.on("pageerror", lambda error: complaints.append(str(error)))
  tab.on("request", lambda request: requests.append(request.url))
  tab.goto(file.as_uri())
  # Nothing sticks out to the right but what scrolls by itself.
  assert tab.evaluate("document.documentElement.scrollWidth") == width
  assert len(first_column(tab)) == 30

  # Sorting, by keyboard: 2 + (7 i mod 30) / 10 is least at run 0, then at run 13 (7 * 13 = 91).
  head = tab.get_by_role("button", name="max-sliced W2")
  head.focus()
  outline = head.evaluate("e => getComputedStyle(e).outlineStyle")
  assert outline == "solid" or width == 400  # focused from outside, it need not be drawn
  tab.keyboard.press("Enter")
  assert first_column(tab)[:3] == ["run-0", "run-13", "run-26"]
  assert head.locator("..").get_attribute("aria-sort") == "ascending"
  tab.keyboard.press("Enter")
  assert first_column(tab)[-1] == "run-0"
  tab.get_by_role("button", name="run", exact=True).press("Space")
  assert first_column(tab)[:3] == ["run-0", "run-1", "run-2"]  # 2 before 10

  # Filtering, of the table, of the curves and of the sections below.
  tab.get_by_role("searchbox").fill("seed=12 done")
  assert first_column(tab) == ["run-12"]
  assert tab.get_by_role("status").inner_text() == "1 of 30"
  assert tab.locator("details.run:visible").count() == 1
  assert tab.locator("figure > .chart g[data-run]:visible").count() == 1
  tab.get_by_role("searchbox").fill("")

  # Columns and metrics are chosen.
  tab.get_by_text("Columns").click()
  tab.get_by_role("checkbox", name="energy distance").uncheck()
  assert not tab.get_by_role("button", name="energy distance").is_visible()
  tab.get_by_role("combobox").select_option(label="energy distance")
  assert tab.locator("svg[aria-label^='energy distance']").is_visible()

  # A run's section opens from the table, and its pictures load.
  link = tab.get_by_role("link", name="run-3", exact=True)
  link.click()
  section = tab.locator(link.get_attribute("href"))
  assert section.locator("pre.command").is_visible()
  for image in section.locator("img").all():
    image.scroll_into_view_if_needed()
    tab.wait_for_function("e => e.complete", arg=image.element_handle())
    assert image.evaluate("e => e.naturalWidth") >= 200
  assert tab.evaluate("document.documentElement.scrollWidth") == width

  # Text stands out from the page: WCAG's 4.5.
  contrasts = tab.evaluate(CONTRASTS)
  assert min(contrasts.values()) >= 4.5, contrasts
  assert complaints == []
  assert requests and all(url.startswith(("file:", "data:")) for url in requests)
  context.close()


CONTRASTS = """() => {
  const light = (rgb) => {
    const [r, g, b] = rgb.match(/[\\d.]+/g).map((v) => {
      v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const found = {};
  for (const selector of ["body", ".quiet", "a[href^='#run']", ".state.done", "figcaption"]) {
    const element = document.querySelector(selector);
    if (!element) continue;
    const ink = light(getComputedStyle(element).color);
    found[selector] = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }
  return found;
}"""


@pytest.mark.slow
def test_a_served_page_refreshes_and_stays_as_it_was(browser, tmp_path):
  paths = [write_run(tmp_path / "runs" / name, seed=i) for i, name in enumerate("ab")]
  server = serve.make_server([tmp_path / "runs"], 0, "a command")
  threading.Thread(target=server.serve_forever, daemon=True).start()
  tab = browser.new_page()
  try:
    tab.goto(f"http://127.0.0.1:{server.server_port}/")
    tab.get_by_role("searchbox").fill("seed=1")
    tab.wait_for_timeout(4000)  # it has asked for its version once
    text = (paths[1] / "evaluation.json").read_text().replace('"value": 2.5', '"value": 1.75')
    (paths[1] / "evaluation.json").write_text(text)
    tab.wait_for_selector("text=1.75 ± 0.12", timeout=15_000)
    assert first_column(tab) == ["b"]
  finally:
    tab.close()
    server.shutdown()
    server.server_close()
