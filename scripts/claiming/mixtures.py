"""Bindings of the numbers in the docstrings of presets, and of configs on the nine modes."""

from __future__ import annotations

import itertools

import numpy as np

from scorelab import targets
from scorelab.targets.mixtures import nine_modes
from scripts.claiming.checking import AtMost, Bindings, Claim
from scripts.claiming.sources import (
  evaluation,
  measured,
  setting,
  theirs,
  value,
  values,
  where_least,
)

SW = "max_sliced_wasserstein"


def score_matching() -> list[Claim]:
  """The preset."""
  modes = nine_modes()
  apart = min(np.linalg.norm(a - b) for a, b in itertools.combinations(np.array(modes.means), 2))
  width = float(np.sqrt(np.ravel(modes.covariances)[0]))
  return [Claim("The modes are {} apart and {} wide", [float(apart), width])]


def digits() -> list[Claim]:
  """The preset."""
  splits = targets.digits().splits
  best = where_least("vp_digits/stopping.csv", "step", "val_loss")
  return [
    Claim(
      "each seen at {} levels, is least", [setting("vp_digits", "training.validation_repeats")]
    ),
    Claim("is least after about {} steps", [best]),
    Claim("memory of the {} training digits", [len(splits["train"])]),
    Claim("against the {} test digits", [len(splits["test"])]),
  ]


def consistency_gmm() -> list[Claim]:
  """One step and a few."""

  def of(metric: str, scale: float = 1.0) -> list[float]:
    return [scale * measured("consistency_gmm", metric, num_steps=n) for n in (1, 2, 4)]

  sw, energy = of(SW), of("energy_distance")
  floors = [measured("consistency_gmm", m, "floor", num_steps=1) for m in (SW, "energy_distance")]
  return [
    Claim(
      "Expect {} %, {} % and {} % of the samples off every mode in {}, {} and {} evaluations, "
      "max-SW2 of {}, {} and {} (floor {}), and an energy distance of {}, {} and {} (floor {})",
      [*of("off_mode_share", 100), 1, 2, 4, *sw, floors[0], *energy, floors[1]],
    )
  ]


def dsm_gmm() -> list[Claim]:
  """Denoising at one level."""
  by_mode = values("dsm_gmm/score_error.csv", "relative", mode=lambda mode: mode != "all")
  return [
    Claim("one level of noise, std {}, on", [setting("dsm_gmm", "loss.sigma")]),
    Claim(
      "score error of {} ± {} at that level (over single modes: up to {}),",
      [error_of("dsm_gmm", 1.0), error_sem_of("dsm_gmm"), max(by_mode)],
    ),
    Claim(
      "published settings (dsm_gmm_published.py) have {}.", [error_of("dsm_gmm_published", 1.0)]
    ),
    Claim("(variance {}, not {}, within", [0.1 + 1.0, 0.1]),
  ]


def error_of(config: str, sigma: float) -> float:
  """Relative score error at a level, over all modes."""
  return value(f"{config}/score_error.csv", "relative", sigma=sigma, mode="all")


def error_sem_of(config: str) -> float:
  """Standard error of the relative score error at the first level."""
  return value(f"{config}/score_error.csv", "relative_sem", mode="all")


def last_loss(config: str) -> float:
  """Loss over the last 100 steps."""
  return value(f"{config}/loss.csv", "loss", step=3000)


def dsm_gmm_published() -> list[Claim]:
  """Denoising at one level, as published."""
  name = "dsm_gmm_published"
  return [
    Claim("one level of noise, std {}, as", [setting(name, "loss.sigma")]),
    Claim(
      "a loss of {} over the last {} of {} steps, where {} is the best, and a relative score error "
      "of {}.",
      [
        *(theirs(name, "loss, last 100 steps"), 100, 3000),
        value(f"{name}/loss.csv", "optimum", step=3000),
        theirs(name, "relative score error"),
      ],
    ),
    Claim(
      "Expect a loss of {}, and an error that wanders with the last iterate: {} after {} steps",
      [last_loss(name), error_of(name, 1.0), 3000],
    ),
  ]


def edm_gmm() -> list[Claim]:
  """EDM."""

  def of(metric: str, steps: int, part: str = "value") -> float:
    return measured("edm_gmm", metric, part, sampler="heun", num_steps=steps)

  def error(least: float) -> float:
    return max(values("edm_gmm/score_error.csv", "relative", sigma=lambda s: s >= least))

  exact = of("off_mode_share", 8) - of("off_mode_share", 8, "learning")
  found = [of(SW, 18), of(SW, 18, "sem"), 35, of(SW, 32), of(SW, 32, "sem"), 63]
  return [
    Claim("data of std {}; here it is {}, so all of them are {} times", [0.5, 8, 16]),
    Claim("evaluated at its {} steps", [setting("edm_gmm", "sampler.num_steps")]),
    Claim(
      "max-SW2 of {} +- {} with {} evaluations and {} +- {} with {} (floor {} +- {})",
      [*found, of(SW, 18, "floor"), of(SW, 18, "floor_sem")],
    ),
    Claim("at most {} nats", [evaluation("edm_gmm")["girsanov"]["total"]]),
    Claim("hardly visit sigma = {}, a sixth", [0.05]),
    Claim("score error is {}; from {} on it is below {}.", [error(0.05), 0.2, AtMost(error(0.2))]),
    Claim(
      "{} steps of Heun are too few for a grid that spans so many levels: {} % of the samples are "
      "off every mode, with the exact score {} %",
      [8, 100 * of("off_mode_share", 8), 100 * exact],
    ),
  ]


def implicit(config: str, loss: str) -> Bindings:
  """A loss that learns the score of the data themselves."""

  def claims() -> list[Claim]:
    where = {"study": "data", "loss": loss, "steps": 4000}
    worst, most = (
      value("score_matching.csv", column, **where)
      for column in ("worst_score_error", "worst_seed_score_error")
    )
    return [
      Claim(
        "over {} seeds the worst mode has {} on average and at most {} (scripts",
        [5, worst, most],
      )
    ]

  return claims


def hyvarinen_gmm_published() -> list[Claim]:
  """Hyvarinen's loss, as published."""
  name = "hyvarinen_gmm_published"
  late = values(f"{name}/loss.csv", "loss", step=lambda step: step > 2000)
  return [
    Claim(
      "a loss of {} over the last {} steps where the optimum is {}, and a relative score error "
      "of {}",
      [
        *(
          theirs(name, "loss, last 100 steps"),
          100,
          value(f"{name}/loss.csv", "optimum", step=3000),
        ),
        theirs(name, "relative score error"),
      ],
    ),
    Claim("Expect {} and an error of {};", [last_loss(name), error_of(name, 0.0)]),
    Claim(
      "over the last {} steps means over {} of them go from {} to {}.",
      [1000, 100, min(late), max(late)],
    ),
  ]


def mala_gmm() -> list[Claim]:
  """Chains of the exact score."""

  def of(sampler: str, part: str = "value") -> float:
    return measured("mala_gmm", "within_mode_std", part, sampler=sampler)

  return [
    Claim(
      "(within-mode std {} +- {}), ULA too wide ({}),", [of("mala"), of("mala", "sem"), of("ula")]
    )
  ]


def ula_gmm() -> list[Claim]:
  """Unadjusted chains of the exact score."""

  def of(metric: str, part: str = "value") -> float:
    return measured("ula_gmm", metric, part, start_std=10.0)

  return [
    Claim("nine modes: {} chains", [20]),
    Claim(
      "{} steps of h = {} (a",
      [setting("ula_gmm", "sampler.num_steps"), setting("ula_gmm", "sampler.step_size")],
    ),
    Claim(
      "mode-weight TV {} where exact samples have {}.",
      [of("mode_weight_tv"), of("mode_weight_tv", "floor")],
    ),
    Claim("(within-mode std {} at", [of("within_mode_std")]),
  ]


def ncsn_gmm() -> list[Claim]:
  """Our best settings, with 90 keys."""

  def of(metric: str, steps: int, part: str = "value") -> float:
    rows = evaluation("ncsn_gmm", "evaluation_90_keys.json")["rows"]
    (row,) = (r for r in rows if (r["sampler"], r["num_steps"]) == ("dpmpp_2m", steps))
    return row["metrics"][metric][part]

  sw, energy = SW, "energy_distance"
  kl = {r: value("ncsn_gmm/likelihood.csv", "kl", reading=r) for r in READINGS}
  return [
    Claim(
      "Expect max-SW2 of {} +- {} and an energy distance of {} +- {} at {} NFE of dpmpp_2m (floors "
      "{} and {});",
      [
        *(of(sw, 16), of(sw, 16, "sem"), of(energy, 16), of(energy, 16, "sem"), 16),
        *(of(sw, 16, "floor"), of(energy, 16, "floor")),
      ],
    ),
    Claim(
      "mode-weight TV of {} and {} % of the samples off every mode at {};",
      [of("mode_weight_tv", 32), 100 * of("off_mode_share", 32), 32],
    ),
    Claim(
      "at most {} at every level from {} to {} ({} keys)",
      [AtMost(max(ncsn_errors())), *setting("ncsn_gmm", "evaluation.score_levels")[::10], 90],
    ),
    Claim(
      "KL(data || flow) was {} +- {} nats.",
      [kl["flow"], value("ncsn_gmm/likelihood.csv", "kl_sem", reading="flow")],
    ),
    Claim("the reverse SDE's, was {}, and", [kl["Girsanov"]]),
    Claim("of a third one, {}.", [kl["variational bound"]]),
    Claim("level is {} rather than {} (the data's std is {})", [80, 10, nine_std()]),
  ]


READINGS = ("flow", "Girsanov", "variational bound")


def ncsn_errors() -> np.ndarray:
  """Relative score error of ncsn_gmm by level."""
  return values("ncsn_gmm/score_error.csv", "relative")


def nine_std() -> float:
  """Std of the nine modes, of one coordinate."""
  return float(nine_modes().scale)


def published_steps(column: str, metric: str = SW) -> np.ndarray:
  """A column of the steps of ncsn_gmm_published from 9 steps on."""
  many = {"num_steps": lambda steps: steps >= 9}
  return values("ncsn_gmm_published/steps.csv", column, metric=metric, **many)


def wandering() -> np.ndarray:
  """max-SW2 of annealed Langevin over the last third of three trainings."""
  return values("ncsn_gmm_published/wander.csv", SW)


def ncsn_gmm_published() -> list[Claim]:
  """The noise-conditional network as published."""
  name = "ncsn_gmm_published"
  sw, off = published_steps("value"), 100 * published_steps("value", "off_mode_share")
  notebook = [theirs(name, "loss, last 100 steps"), 100 * theirs(name, "off-mode share, network")]
  return [
    Claim(
      "a loss of {} over the last {} steps, max-SW2 between {} and {} from {} steps on for every "
      "eta, and {} % to {} % of samples off every mode (the notebook's own run: {} and {} %)",
      [last_loss(name), 100, min(sw), max(sw), 9, min(off), max(off), *notebook],
    ),
    Claim("level is {} while the data's std is {} (prior)", [10, nine_std()]),
    Claim(
      "third of {} trainings the max-SW2 of annealed Langevin goes from {} to {}.",
      [3, min(wandering()), max(wandering())],
    ),
  ]


def waits(config: str) -> int:
  """Steps without a better validation after which a training stops."""
  return setting(config, "training.patience") * setting(config, "training.checkpoint_every")


def overfit_gmm() -> list[Claim]:
  """A fixed training set."""
  return [
    Claim("loss on {} fixed points", [setting("overfit_gmm", "target.num_train")]),
    Claim("stops {} steps after", [waits("overfit_gmm")]),
    Claim("score error of {}.", [error_of("overfit_gmm", 0.0)]),
  ]


CLAIMS: dict[str, Bindings] = {
  "digits": digits,
  "score_matching": score_matching,
  "consistency_gmm": consistency_gmm,
  "dsm_gmm": dsm_gmm,
  "dsm_gmm_published": dsm_gmm_published,
  "edm_gmm": edm_gmm,
  "hutchinson_gmm": implicit("hutchinson_gmm", "hutchinson"),
  "hyvarinen_gmm": implicit("hyvarinen_gmm", "hyvarinen"),
  "hyvarinen_gmm_published": hyvarinen_gmm_published,
  "mala_gmm": mala_gmm,
  "ncsn_gmm": ncsn_gmm,
  "ncsn_gmm_published": ncsn_gmm_published,
  "overfit_gmm": overfit_gmm,
  "ssm_gmm": implicit("ssm_gmm", "sliced"),
  "ssm_vr_gmm": implicit("ssm_vr_gmm", "sliced_vr"),
  "ula_gmm": ula_gmm,
}
