"""Bindings of the numbers in the docstrings of all configs but those on the nine modes."""

from __future__ import annotations

import importlib

import numpy as np

from configs import diffusion2015_swissroll
from configs import vp_digits as vp_digits_config
from scorelab.experiment.build import build
from scripts.claiming.checking import AtLeast, AtMost, Bindings, Claim
from scripts.claiming.sources import evaluation, measured, setting, theirs, value, values
from scripts.published import entries

SW = "max_sliced_wasserstein"
CIRCLES = "circles.csv"
DIGIT_DIM = 8 * 8


def guided(metric: str, scale: float, part: str = "value", **more: float | None) -> float:
  """A number of cond_digits at a scale of guidance."""
  more = {"guidance_rescale": None, "guidance_low": None} | more
  return measured("cond_digits", metric, part, guidance_scale=scale, **more)


def cond_digits() -> list[Claim]:
  """Guided digits."""
  strong = [guided("class_accuracy", scale) for scale in (1.5, 2.0, 4.0)]
  limited = guided("frechet", 3.0, guidance_low=0.2)
  return [
    Claim(
      "Expect {} % without guidance (scale {}) and {} % or more from a scale of {} on, where a "
      "classifier is right on {} % of real digits that it has not seen;",
      [
        *(100 * guided("class_accuracy", 1.0), 1, AtLeast(100 * min(strong)), 1.5),
        100 * guided("class_accuracy", 1.0, "floor"),
      ],
    ),
    Claim(
      "distances of {} at scale {}, {} at {} and {} at {} (real training digits: {}). Guided at {} "
      "for sigma / alpha in ({}, {}] only it is {}",
      [
        *(guided("frechet", 1.0), 1, guided("frechet", 2.0), 2, guided("frechet", 4.0), 4),
        *(guided("frechet", 1.0, "floor"), 3, 0.2, 2, limited),
      ],
    ),
  ]


def circle(config: str, row: str, column: str = "value") -> float:
  """Distance of a row's samples to the circles."""
  return value(CIRCLES, column, config=config, quantity="support_distance", row=row)


def losses(config: str) -> list[float]:
  """Loss after each of three numbers of steps, over the seeds, with its errors."""
  found = []
  for steps in (5000, 10_000, 60_000):
    where = {"config": config, "quantity": f"loss at {steps}"}
    found += [value(CIRCLES, column, **where) for column in ("value", "sem")]
  return found


def ddpm_circles() -> list[Claim]:
  """Our settings on two circles."""
  shares = values(CIRCLES, "most", config="ddpm_circles", quantity="component_tv")
  return [
    Claim(
      "Expect samples {} from the circles (the published settings: {})",
      [
        circle("ddpm_circles", "ancestral-100-variance=small"),
        circle("ddpm_circles_published", "ancestral-100-variance=large"),
      ],
    ),
    Claim("off a half by at most {} ({} seeds,", [AtMost(max(shares)), 5]),
  ]


def ddpm_circles_published() -> list[Claim]:
  """The published settings, on two circles."""
  ours, name = losses("ddpm_circles_published")[::2], "ddpm_circles_published"
  large, small = "ancestral-100-variance=large", "ancestral-100-variance=small"
  return [
    Claim("over the {} steps before", [5000]),
    Claim("of {}, {} and {} at {}, {} and {} steps", [*ours, 5000, 10_000, 60_000]),
    Claim(
      "({} seeds, scripts/circles.py; the notebook's {}, {} and {};",
      [5, *(theirs(name, "loss", f"{n} steps") for n in (5000, 10_000, 60_000))],
    ),
    Claim(
      "to the circles: {} +- {} by the published ancestral steps (the notebook's code: {} to "
      "{}), {}",
      [
        *(circle(name, large), circle(name, large, "sem"), *draws(name, "distance, ancestral")),
        circle(name, small),
      ],
    ),
  ]


def ddpm_digits() -> list[Claim]:
  """A U-Net on digits."""

  def of(metric: str, steps: int, part: str = "value") -> float:
    return measured("ddpm_digits", metric, part, num_steps=steps)

  bits, error, bound = bits_of_ddpm_digits()
  return [
    Claim("sampled in {} to {} evaluations", [32, 50]),
    Claim("after {} steps, {} +- {} bits", [3000, bits, error]),
    Claim("({} by the variational bound", [bound]),
    Claim("network of vp_digits has {})", [bits_of("vp_digits")]),
    Claim("distance {} in pixels with {} evaluations", [of("frechet", 32), 32]),
    Claim("(real digits: {} for as many samples)", [of("frechet", 32, "floor")]),
    Claim("the most frequent class {} times", [of("class_imbalance", 32)]),
    Claim("and {} % as many confident digits", [100 * of("confident_share", 32)]),
    Claim("{} % by {} steps that draw noise", [100 * of("confident_share", 25), 25]),
    Claim("average at step {} ({} calls", [500, 50]),
  ]


def bits_of_ddpm_digits() -> tuple[float, float, float]:
  """Bits per dimension by the flow, its error, and by the bound."""
  found = evaluation("ddpm_digits")["likelihood"]
  error = found["flow_sem"] / DIGIT_DIM / np.log(2)
  return found["bits_per_dim"], float(error), found["bound_bits_per_dim"]


def bits_of(config: str, by: str = "exact", column: str = "bits_per_dim") -> float:
  """Bits per dimension of test digits."""
  return value(f"{config}/likelihood.csv", column, by=by)


def swissroll() -> list[Claim]:
  """The diffusion of 2015, fixed."""
  ours, theirs_ = "diffusion2015_swissroll", "diffusion2015_swissroll_published"
  optimum = float(np.mean(values(f"{ours}/learning_steps.csv", "optimum")))

  def at(config: str, step: int) -> float:
    return value(f"{config}/learning.csv", "kl_per_dim", step=step)

  sw = [
    measured(ours, "sliced_wasserstein", part) for part in ("value", "sem", "floor", "floor_sem")
  ]
  return [
    Claim("averaged over t = {} to {} and both", [2, 40]),
    Claim("{} nats against {}, the least", [at(ours, 8000), optimum]),
    Claim(
      "{} after {} steps and {} after {}; the published form is at {} after {}",
      [at(ours, 1000), 1000, at(ours, 4000), 4000, at(theirs_, 32_000), 32_000],
    ),
    Claim("W2 of {} samples {} +- {}, where the floor is {} +- {}", [5000, *sw]),
    Claim("whose noise has std {}:", [first_noise()]),
  ]


def first_noise() -> float:
  """Std of the noise of the chain's first step."""
  schedule = build(diffusion2015_swissroll.get_config("fast")).schedule
  return float(schedule.at(1 / 40).sigma)


def swissroll_published() -> list[Claim]:
  """The diffusion of 2015, as published."""
  name = "diffusion2015_swissroll_published"
  kl = {step: value(f"{name}/learning.csv", "kl_per_dim", step=step) for step in (8e3, 16e3, 32e3)}
  optimum = float(np.mean(values("diffusion2015_swissroll/learning_steps.csv", "optimum")))
  sw = [measured(name, "sliced_wasserstein", part) for part in ("value", "sem", "floor")]
  return [
    Claim(
      "{} nats after {} steps, {} after {} and {} after {} (it",
      [kl[8e3], 8000, kl[16e3], 16_000, kl[32e3], 32_000],
    ),
    Claim("optimum is {}, and sliced W2 {} +- {}, floor {}.", [optimum, *sw]),
    Claim("t from {} to {}, for the whole batch", [2, 40]),
    Claim("drawn once in {} steps", [measured_steps(name)]),
    Claim("at a learning rate of {}:", [setting(name, "optimizer.learning_rate")]),
  ]


def measured_steps(config: str) -> int:
  """Steps of a config's sampler, from its evaluation."""
  return evaluation(config)["rows"][0]["num_steps"]


def flow_moons() -> list[Claim]:
  """Flow matching."""

  def of(part: str, sampler: str, steps: int) -> float:
    return measured("flow_moons", SW, part, sampler=sampler, num_steps=steps)

  fine = [("heun", 16), ("dpmpp_2m", 32), ("euler", 128)]
  found, sems = ([of(part, *row) for row in fine] for part in ("value", "sem"))
  return [
    Claim(
      "Expect Heun's {} evaluations, {} of dpmpp_2m and {} of Euler at the floor of every metric "
      "(max-SW2 {} to {} +- {}, floor {}), and {} of Euler above it ({} +- {})",
      [
        *(31, 32, 128, min(found), max(found), max(sems), of("floor", *fine[0])),
        *(32, of("value", "euler", 32), of("sem", "euler", 32)),
      ],
    ),
    Claim("pure noise, t = {}, to", [1]),
  ]


def one_step_circles() -> list[Claim]:
  """One step, as published."""
  name = "one_step_circles"
  steps = (5000, 10_000, 60_000)
  return [
    Claim("of x = {} x_0 + eps and a sample is {} (z", [0.01, 100]),
    Claim("over the {} steps before, of", [5000]),
    Claim(
      "of {} +- {}, {} +- {} and {} +- {} at {}, {} and {} steps ({} seeds,",
      [*losses(name), *steps, 5],
    ),
    Claim("run {}, {} and {};", [theirs(name, "loss", f"{n} steps") for n in steps]),
    Claim(
      "are {} +- {} from the circles (two keys of the notebook's code: {} and {})",
      [circle(name, "ddim-1"), circle(name, "ddim-1", "sem"), *draws(name, "distance")],
    ),
  ]


def draws(config: str, quantity: str) -> tuple[float, ...]:
  """The published draws of a number."""
  (entry,) = (e for e in entries() if (e.config, e.quantity) == (config, quantity))
  return entry.published


def memorisation_circles() -> list[Claim]:
  """Memorisation of the training points by a network."""

  def of(metric: str, part: str = "value") -> float:
    return measured("memorisation_circles", metric, part, sampler="ancestral")

  return [
    Claim(
      "Expect samples {} from their nearest training point, {} % of them",
      [of("nearest_point_distance"), 100 * of("memorised_share")],
    ),
    Claim(
      "finite set gives {} and {} %.",
      [of("nearest_point_distance", "floor"), 100 * of("memorised_share", "floor")],
    ),
  ]


def renoise_circles() -> list[Claim]:
  """Re-noising, our settings."""

  def of(nfe: int) -> float:
    return measured("renoise_circles", "support_distance", sampler="renoise", nfe=nfe)

  return [
    Claim(
      "Expect samples {} from the circles, and {} where the last x_0 is not returned (the "
      "published settings: {})",
      [of(100), of(99), circle("ddpm_circles_published", SLIPS)],
    )
  ]


SLIPS = "renoise-100-variance=None-slips=True-denoise=False"


def renoise_circles_published() -> list[Claim]:
  """Re-noising, as published."""
  name = "ddpm_circles_published"
  last = "renoise-100-variance=None-slips=True-denoise=True"
  first = [circle(name, SLIPS), circle(name, SLIPS, "sem"), *draws(name, "distance, re-noised")]
  mended = [circle(name, "renoise-100"), circle(name, "renoise-100", "sem")]
  return [
    Claim(
      "Expect samples {} +- {} from the circles as published (the notebook's code: {} to {})", first
    ),
    Claim("{} with the last x_0 returned and {} +- {} with", [circle(name, last), *mended]),
    Claim("fixed: {} to {}); {} seeds", [*draws(name, "distance, re-noised, all slips mended"), 5]),
  ]


def sbgm_digits() -> list[Claim]:
  """The tutorial's process, fixed."""

  def of(sampler: str, part: str = "value") -> float:
    return measured("sbgm_digits", "frechet", part, sampler=sampler)

  return [
    Claim(
      "at a noise of std {} where the digits' own is {},", [ends_at("sbgm_digits"), digit_std()]
    ),
    Claim(
      "distances of {} +- {} by {} Euler steps and of {} +- {} by Heun with {} evaluations",
      [of("euler_time"), of("euler_time", "sem"), 20, of("heun"), of("heun", "sem"), 31],
    ),
  ]


def ends_at(config: str) -> float:
  """Std of the noise at the end of a config's process."""
  module = importlib.import_module(f"configs.{config}")
  return float(build(module.get_config("fast")).schedule.at(1.0).sigma)


def digit_std() -> float:
  """Std of the training digits' pixels."""
  return float(build(vp_digits_config.get_config("fast")).target.scale)


def sbgm_digits_published() -> list[Claim]:
  """The tutorial, as published."""

  def of(squash: bool) -> float:
    where = {"squash": squash, "unsquared": True}
    return measured("sbgm_digits_published", "frechet", **where)

  name = "sbgm_digits_published"
  return [
    Claim(
      "distance of {} in pixels (a run of the tutorial's own code: about {}), and {} without",
      [of(True), theirs(name, "Frechet distance"), of(False)],
    )
  ]


def process(config: str) -> Bindings:
  """A process whose docstring says what Heun's method gives, with and without churn."""

  def of(metric: str, nfe: int, part: str = "value") -> float:
    return measured(config, metric, part, sampler="heun", nfe=nfe)

  def claims() -> list[Claim]:
    found = [
      Claim(
        "distance of {} in pixels by Heun, {} evaluations (real training digits: {})",
        [of("frechet", 31), 31, of("frechet", 31, "floor")],
      ),
      Claim("and {} % as many confident", [100 * of("confident_share", 31)]),
      Claim(
        "with churn, {} evaluations, {} and {} %.",
        [63, of("frechet", 63), 100 * of("confident_share", 63)],
      ),
    ]
    bits = [bits_of(config), bits_of(config, column="sem")]
    flow = Claim("On test digits {} +- {} bits", bits)
    bound = Claim("flow, {} by the variational bound", [bits_of(config, "bound")])
    fit = Claim("training digits' moments has {}.", [bits_of(config, "Gaussian fit")])
    more = {"sbgm_digits_sigma25": [flow], "vp_digits": [flow, bound, fit]}
    return [*found, *more.get(config, [])]

  return claims


def sigma25() -> list[Claim]:
  """The exploding process on digits."""
  return process("sbgm_digits_sigma25")()


def ddpm_flowers() -> list[Claim]:
  """The published model of flowers."""
  name, speed = "ddpm_flowers", "training images a second"
  return [
    Claim("a U-Net of {} parameters", [theirs(name, "parameters", "dim 128, ResNet")]),
    Claim(
      "{} images a second at batch {} on one, about {} at batch {} on eight",
      [theirs(name, speed, "1 GPU, batch 24"), 24, theirs(name, speed, "8 GPUs, batch 192"), 192],
    ),
  ]


CLAIMS: dict[str, Bindings] = {
  "cond_digits": cond_digits,
  "ddpm_circles": ddpm_circles,
  "ddpm_circles_published": ddpm_circles_published,
  "ddpm_digits": ddpm_digits,
  "ddpm_flowers": ddpm_flowers,
  "diffusion2015_swissroll": swissroll,
  "diffusion2015_swissroll_published": swissroll_published,
  "flow_moons": flow_moons,
  "memorisation_circles": memorisation_circles,
  "one_step_circles": one_step_circles,
  "renoise_circles": renoise_circles,
  "renoise_circles_published": renoise_circles_published,
  "sbgm_digits": sbgm_digits,
  "sbgm_digits_published": sbgm_digits_published,
  "sbgm_digits_sigma25": sigma25,
  "subvp_digits": process("subvp_digits"),
  "vp_digits": process("vp_digits"),
}
