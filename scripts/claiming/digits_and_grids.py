"""Bindings of docs/results.md: digits, guidance and the grid that was found."""

from __future__ import annotations

from scripts.claiming.checking import AtLeast, Claim
from scripts.claiming.others import guided
from scripts.claiming.sources import measured, setting, theirs, value, values

FOUND = "optimised_grid/dpmpp_2m_6.csv"


def digits_page() -> list[Claim]:
  """Digits, and those that are guided."""

  def churned(metric: str, part: str = "value") -> float:
    return measured("vp_digits", metric, part, nfe=63)

  name = "sbgm_digits_published"
  strong = [guided("class_accuracy", scale) for scale in (1.5, 2.0, 4.0)]
  return [
    Claim(
      "{} samples against the {} test digits", [setting("vp_digits", "evaluation.num_samples"), 450]
    ),
    Claim("surer than {},", [0.9]),
    Claim("distance of about {} where", [theirs(name, "Frechet distance")]),
    Claim(
      "`sbgm_digits_published` has {}.", [value("digits/processes.csv", "frechet", config=name)]
    ),
    Claim(
      "With churn and {} evaluations `vp_digits` has {} ± {}, and a confident share of {}.",
      [63, churned("frechet"), churned("frechet", "sem"), churned("confident_share")],
    ),
    Claim(
      "in {} % of its samples without guidance and in {} % or more from a scale of {} on, where "
      "the same classifier is right on {} % of real digits that it has not seen; Frechet distance "
      "{}, {} and {} at scales {}, {} and {} (real digits: {}).",
      [
        *(100 * guided("class_accuracy", 1.0), AtLeast(100 * min(strong)), 1.5),
        100 * guided("class_accuracy", 1.0, "floor"),
        *(guided("frechet", scale) for scale in (1.0, 2.0, 4.0)),
        *(1, 2, 4, guided("frechet", 1.0, "floor")),
      ],
    ),
  ]


def best_stock(on: str, measure: str) -> dict[str, float]:
  """Mean of the best stock grid, of the grid found, and standard errors of a sampled gain."""
  where = {"on": on, "measure": measure}
  stock = {**where, "grid": lambda grid: grid != "optimised"}
  means, gains = values(FOUND, "mean", **stock), values(FOUND, "gain", **stock)
  best = int(means.argmin())
  sem = values(FOUND, "gain_sem", **stock)[best]
  ours = value(FOUND, "mean", **where, grid="optimised")
  errors = float(gains[best] / sem) if sem else float("nan")  # an exact measure has none
  return {"ours": ours, "stock": float(means[best]), "errors": errors, "grids": len(means)}


def found_grid() -> list[Claim]:
  """A grid of six levels, found by descent."""
  exact, learned = (
    {m: best_stock(on, m) for m in ("energy", "max_sw2")}
    for on in ("nine_modes", "nine_modes, learned")
  )
  energy, sw = exact.values()
  energy_l, sw_l = learned.values()
  return [
    Claim("A grid of {} levels", [6]),
    Claim(
      "to {} from the best of {} stock grids' {}, without sampling noise in either; max-SW2 is {} "
      "for {} ({} errors worse).",
      [
        *(energy["ours"], energy["grids"], energy["stock"]),
        *(sw["ours"], sw["stock"], -sw["errors"]),
      ],
    ),
    Claim(
      "the energy distance is {} for {}, max-SW2 {} for {} ({} errors worse).",
      [
        *(energy_l["ours"], energy_l["stock"]),
        *(sw_l["ours"], sw_l["stock"], -sw_l["errors"]),
      ],
    ),
    Claim("grid of {}]", [25]),
  ]
