"""Bindings of the numbers in README.md and docs/."""

from __future__ import annotations

from typing import Any

import numpy as np

from scorelab.plotting import read_csv
from scripts import pareto_study, published
from scripts.claiming.checking import AtMost, Bindings, Claim
from scripts.claiming.digits_and_grids import digits_page, found_grid
from scripts.claiming.mixtures import (
  READINGS,
  error_of,
  error_sem_of,
  last_loss,
  ncsn_errors,
  nine_std,
  published_steps,
  wandering,
)
from scripts.claiming.sources import (
  REFERENCE,
  evaluation,
  setting,
  theirs,
  value,
  values,
)
from scripts.drawing import pareto as drawing

SW = "max_sliced_wasserstein"
ENERGY = "energy_distance"
NCSN = "ncsn_gmm_published"


def nine_modes_page() -> list[Claim]:
  """docs/results.md, the nine modes."""
  protocol = evaluation("ncsn_gmm", "evaluation_90_keys.json")["protocol"]
  sizes = [protocol[n] for n in ("num_samples", "num_reference", "num_keys", "num_projections")]
  kl = {
    (config, r, part): value(f"{config}/likelihood.csv", part, reading=r)
    for config in ("ncsn_gmm", NCSN)
    for r in READINGS
    for part in ("kl", "kl_sem")
  }

  def of(config: str, reading: str) -> list[float]:
    return [kl[config, reading, "kl"], kl[config, reading, "kl_sem"]]

  levels = setting("ncsn_gmm", "evaluation.score_levels")
  prior = evaluation("ncsn_gmm")["girsanov"]["prior"]
  return [
    Claim("{} samples against {} points, drawn for each of {} keys, and {} projections", sizes),
    Claim(
      "below {} at each of {} levels from {} to {}.",
      [AtMost(max(ncsn_errors())), len(levels), levels[0], levels[-1]],
    ),
    Claim(
      "is within {} ± {} nats of the data (KL), of which the prior takes {};",
      [*of("ncsn_gmm", "Girsanov"), prior],
    ),
    Claim("KL(data || flow) is {} ± {} nats", of("ncsn_gmm", "flow")),
    Claim(
      "on the reverse SDE is {} ± {} nats, the flow is at {} ± {}.",
      [*of(NCSN, "Girsanov"), *of(NCSN, "flow")],
    ),
  ]


def published_nine_modes() -> list[Claim]:
  """docs/results.md, the nine modes as published."""
  sw, off = published_steps("value"), 100 * published_steps("value", "off_mode_share")
  prior, learning = published_steps("prior"), published_steps("learning")

  def langevin(config: str, column: str) -> float:
    return value(f"{config}/langevin_metrics.csv", column, metric=SW)

  exact = langevin("ncsn_gmm", "value") - langevin("ncsn_gmm", "learning")
  floor = [langevin("ncsn_gmm", name) for name in ("floor", "floor_sem", "value", "sem")]
  drawn = values(f"{NCSN}/published.csv", "value")
  return [
    Claim(
      "a max-SW2 of {} and {} from {} steps on, for every eta and number of steps, with {} % to "
      "{} %",
      [min(sw), max(sw), 9, min(off), max(off)],
    ),
    Claim(
      "where the data's own std is {}, costs {} to {} of that, and the network's error changes it "
      "by "
      "{} to {}:",
      [nine_std(), min(prior), max(prior), min(learning), max(learning)],
    ),
    Claim("the same {} levels, {} steps at each", [100, 5]),
    Claim(
      "with the exact score ({}, floor {} ± {}) and with our network ({} ± {};", [exact, *floor]
    ),
    Claim(
      "last third of {} trainings it gives {} to {}, {} on average",
      [3, min(wandering()), max(wandering()), float(np.mean(wandering()))],
    ),
    Claim("the notebook's run gave {}.", [theirs(NCSN, "max-SW2 of annealed Langevin")]),
    Claim("the figure's {} published numbers", [len(drawn)]),
  ]


def losses_page() -> list[Claim]:
  """docs/results.md, the losses compared."""
  file = "score_matching.csv"
  floors = [
    float(np.mean(values(file, f"{name}_floor"))) for name in (SW, ENERGY, "mode_weight_tv")
  ]
  late = {"study": "data", "steps": 4000}
  off, worst = values(file, "off_mode_share", **late), values(file, "worst_score_error", **late)
  by_mode = values("dsm_gmm/score_error.csv", "relative", mode=lambda mode: mode != "all")
  name, hyvarinen = "dsm_gmm_published", "hyvarinen_gmm_published"
  exact = [(c, "start std 10" in r["chains"], r) for c in ("ula_gmm", "mala_gmm") for r in rows(c)]
  wide = [r["rhat"] for _, spread, r in exact if spread]
  within = [r["rhat_within"] for _, spread, r in exact if spread]
  implicit = ("hyvarinen_gmm", "hutchinson_gmm", "ssm_gmm", "ssm_vr_gmm", "overfit_gmm")
  learned = [r["rhat_within"] for c in implicit for r in rows(c) if "network" in r["chains"]]
  (dsm,) = (r["rhat_within"] for r in rows("dsm_gmm") if "network" in r["chains"])
  return [
    Claim("{} seeds of each loss on the nine modes", [int(max(values(file, "seeds")))]),
    Claim("modes, {} points per step", [setting("hyvarinen_gmm", "training.batch_size")]),
    Claim("(residual MLP, width {})", [setting("hyvarinen_gmm", "network.width")]),
    Claim("for all levels from {} to {},", [0.02, 80]),
    Claim("max-SW2 {}, energy distance {}, mode-weight TV {}.", floors),
    Claim("{} % of ULA's chains", [100 * float(np.mean(off))]),
    Claim("after {} steps the worst mode's error is at most {}.", [4000, AtMost(max(worst))]),
    Claim("On {} fixed points", [setting("overfit_gmm", "target.num_train")]),
    Claim("at an error of {}.", [error_of("overfit_gmm", 0.0)]),
    Claim(
      "relative error {}, the notebook's {}).",
      [error_of(hyvarinen, 0.0), theirs(hyvarinen, "relative score error")],
    ),
    Claim(
      "Denoising at std {} does (`dsm_gmm_published`: loss {}, the notebook's {}; error {}, the "
      "notebook's {},",
      [
        *(setting(name, "loss.sigma"), last_loss(name), theirs(name, "loss, last 100 steps")),
        *(error_of(name, 1.0), theirs(name, "relative score error")),
      ],
    ),
    Claim(
      "`dsm_gmm` has {} ± {} there, with half of the draws in the tails",
      [error_of("dsm_gmm", 1.0), error_sem_of("dsm_gmm")],
    ),
    Claim("over single modes it is up to {}.", [max(by_mode)]),
    Claim(
      "{} chains of the exact score do not mix between modes, by ULA, MALA or underdamped "
      "Langevin: "
      "from starts of std {} split R-hat over points is {} to {}.",
      [20, 10, min(wide), max(wide)],
    ),
    Claim("Within modes it is {} to {}:", [min(within), max(within)]),
    Claim(
      "it is {} to {} within modes too, and {} for `dsm_gmm`:", [min(learned), max(learned), dsm]
    ),
    Claim("![{} chains", [20]),
  ]


def rows(config: str) -> list[dict[str, Any]]:
  """Diagnostics of a config's chains."""
  return read_csv(REFERENCE / config / "chains_diagnostics.csv")


def circles_page() -> list[Claim]:
  """docs/results.md, the two circles."""
  ratios = values("circles.csv", "ratio", quantity=lambda q: q.startswith("loss"))
  first = value("circles.csv", "ratio", config="one_step_circles", quantity="loss at 5000")
  rest = [abs(100 * (ratio - 1)) for ratio in ratios if ratio != first]
  samples = setting("ddpm_circles_published", "evaluation.num_samples")
  return [
    Claim("{} seeds, each a training", [5]),
    Claim("means over the {} steps before; distances those of {} samples", [5000, samples]),
    Claim("of one step at {} is {} % below", [5000, 100 * (1 - first)]),
    Claim("other losses are within {} %.", [AtMost(max(rest))]),
    Claim("of its {} points", [2 * setting("one_step_circles", "target.num_points")]),
  ]


def results() -> list[Claim]:
  """docs/results.md."""
  return [
    *nine_modes_page(),
    *published_nine_modes(),
    *losses_page(),
    *circles_page(),
    *digits_page(),
    *found_grid(),
  ]


def needed(label: str, metric: str) -> list[float]:
  """Least and most evaluations that a sampler needs, over the columns where it gets there."""
  lines = read_csv(REFERENCE / "pareto" / "pareto.csv")
  (row,) = (
    line for line in drawing.fewest(lines, metric).splitlines() if line.startswith(f"| `{label}` |")
  )
  found = [float(cell.strip(" *")) for cell in row.strip("|").split("|")[1:] if "-" not in cell]
  return [min(found), max(found)]


def pareto() -> list[Claim]:
  """docs/pareto.md."""
  file, protocol = "pareto/pareto.csv", pareto_study.Protocol()
  many = {"target": "nine_modes", "num_keys": 90}
  exact = {**many, "score": "exact"}
  five = {"label": "dpmpp_singlestep", "nfe": 5}
  sizes = [protocol.num_samples, protocol.num_reference, protocol.num_projections]
  samplers = len(pareto_study.ENTRIES)
  budgets, keys = protocol.budgets, protocol.keys
  names = ("ipndm", "deis", "dpmpp_2m", "dpmpp_singlestep", "heun", "ddim")
  by_sw = [count for name in names for count in needed(name, SW)]
  energy = ("deis", "ipndm", "dpmpp_2m", "heun", "ddim")
  by_energy = [count for name in energy for count in needed(name, ENERGY)]
  cells = len(values(file, "nfe", **exact))

  def over(metric: str, **where: object) -> np.ndarray:
    return values(file, f"{metric}_over_floor", **{**exact, **where})

  def lowest(column: str) -> list[float]:
    return [value(file, column, **many, score=score, **five) for score in ("exact", "learned")]

  ratios = zip(lowest(f"{SW}_over_floor"), lowest(f"{SW}_over_floor_sem"), strict=True)
  below = [(1 - ratio) / error for ratio, error in ratios]
  tv, tv_floor = lowest("mode_weight_tv"), lowest("mode_weight_tv_floor")[0]
  floor = [lowest(f"{SW}_{name}")[0] for name in ("floor", "floor_sem")]
  ten = {"nfe": 10}
  high = value(file, "over_finest", target="grid25_80", score="learned", label="dpmpp_2m", nfe=128)
  return [
    Claim("network evaluations: {} samplers", [samplers]),
    Claim(
      "{} samplers with {} to {} evaluations of the network on {} targets",
      [samplers, budgets[0], budgets[-1], len(pareto_study.TARGETS)],
    ),
    Claim(
      "measured with {} other keys: {} samples against {}, {} projections", [len(keys), *sizes]
    ),
    Claim("stays within {} times the max-SW2", [drawing.NEAR]),
    Claim("measured, up to {}.", [budgets[-1]]),
    Claim("detects more errors: within {} times", [drawing.NEAR]),
    Claim(
      "By max-SW2 `ipndm` needs {} to {} evaluations, `deis` {} to {}, `dpmpp_2m` {} to {}, "
      "`dpmpp_singlestep` {} to {}, Heun's method {} to {} and DDIM {} to {}.",
      by_sw,
    ),
    Claim(
      "By the energy distance `deis` needs {} to {}, `ipndm` {} to {}, `dpmpp_2m` {} to {}, Heun's "
      "method {} to {} and DDIM {} to {}.",
      by_energy,
    ),
    Claim("at {} evaluations in {} dimensions, and outside it again at {} and {}.", crossings()),
    Claim(
      "In {} dimensions the learned score itself is {} times the finest solution at {} evaluations "
      "of `dpmpp_2m`, and no sampler stays below {}.",
      [80, high, 128, drawing.NEAR],
    ),
    Claim("## With {} keys", [90]),
    Claim("each budget up to {} evaluations", [10]),
    Claim("measured again with {} keys", [len(protocol.headline_keys)]),
    Claim("All {} of each score", [cells]),
    Claim("The floor of max-SW2 is {} ± {} here:", floor),
    Claim(
      "`dpmpp_singlestep` with {} evaluations, are {} and {} standard errors below {} by the exact "
      "and the learned score, the lowest of {} cells;",
      [5, *below, 1, len(values(file, "nfe", **many))],
    ),
    Claim(
      "energy distance {} and {} floors, mode-weight TV {} and {} where exact samples have {}, "
      "modes {} times too wide.",
      [*lowest(f"{ENERGY}_over_floor"), *tv, tv_floor, lowest("within_mode_std")[0]],
    ),
    Claim(
      "with {} evaluations they are up to {} times",
      [5, max(values(file, "within_mode_std", **exact, nfe=5))],
    ),
    Claim(
      "With {} evaluations max-SW2 is at {} to {} floors and the energy distance at {} to {}, by",
      [
        *(10, min(over(SW, **ten)), max(over(SW, **ten))),
        *(min(over(ENERGY, **ten)), max(over(ENERGY, **ten))),
      ],
    ),
  ]


def crossings() -> list[float]:
  """Evaluations of dpmpp_singlestep in 80 d: first within the limit, then those outside it."""
  where = {"target": "grid25_80", "score": "exact", "label": "dpmpp_singlestep", "num_keys": 10}
  nfe = values("pareto/pareto.csv", "nfe", **where)
  beyond = values("pareto/pareto.csv", "beyond", **where)
  first = min(nfe[beyond <= 0])
  return [first, 80, *sorted(nfe[(beyond > 0) & (nfe > first)])]


def published_page() -> list[Claim]:
  """docs/published.md."""
  lines = published.verdicts(REFERENCE)
  by_errors = [line for line in lines if line["errors_apart"] is not None]
  apart = [line["errors_apart"] for line in by_errors if line["verdict"] == "differs"]
  return [
    Claim(
      "Of the {} comparisons by standard errors one or two are expected to differ by chance; the "
      "{} "
      "that do share their keys, and are {} and {} standard errors apart.",
      [len(by_errors), len(apart), *apart],
    ),
    Claim(
      "last third of {} trainings of `ncsn_gmm_published` the max-SW2 of annealed Langevin goes "
      "from "
      "{} to {}.",
      [3, min(wandering()), max(wandering())],
    ),
    Claim(
      "its loss is higher ({}, ours {}), its samples of {} steps",
      [theirs(NCSN, "loss, last 100 steps"), last_loss(NCSN), 4],
    ),
    Claim('than "about {}",', [theirs("sbgm_digits_published", "Frechet distance")]),
  ]


def speed() -> list[Claim]:
  """docs/speed.md."""
  name, quantity = "ddpm_flowers", "training images a second"
  parameters = theirs(name, "parameters", "dim 128, ResNet")
  return [
    Claim("(dim {}, {} parameters,", [128, parameters]),
    Claim(
      "Published: {} at batch {} on one",
      [theirs(name, quantity, "1 GPU, batch 24"), 24],
    ),
    Claim("about {} at batch {} on eight.", [theirs(name, quantity, "8 GPUs, batch 192"), 192]),
    Claim("| | batch {} | batch {} | batch {} |", [24, 64, 192]),
  ]


def samplers() -> list[Claim]:
  """docs/samplers.md."""
  return [Claim("{} by default): the length", [0.16]), Claim("adaptive_ode`, of order {});", [5])]


def readme() -> list[Claim]:
  """README.md."""
  protocol = evaluation("ncsn_gmm", "evaluation_90_keys.json")["protocol"]
  return [Claim("over {} keys:", [protocol["num_keys"]])]


CLAIMS: dict[str, Bindings] = {
  "README.md": readme,
  "docs/results.md": results,
  "docs/pareto.md": pareto,
  "docs/published.md": published_page,
  "docs/speed.md": speed,
  "docs/samplers.md": samplers,
}
