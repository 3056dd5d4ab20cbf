"""Converts diffusers' scheduler_config.json to and from schedules, parameterizations and samplers.

A scheduler of diffusers combines a process, a parameterization, a grid and a sampler. Each of its
fields is read, listed as irrelevant, or refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from scorelab.predictions.clipping import clipped, thresholded
from scorelab.pretrained.files import PretrainedError, shown
from scorelab.schedules import (
  Discrete,
  GeometricVarianceExploding,
  Schedule,
  cosine_betas,
  linear_betas,
  scaled_linear_betas,
  sigmoid_betas,
)
from scorelab.typing import Predict

_MAX_STEPS = 100_000
_KINDS = {"epsilon": "noise", "sample": "x0", "v_prediction": "v"}
_SPACINGS = ("leading", "trailing", "linspace")
_VARIANCES = {
  "fixed_small": "small",
  "fixed_small_log": "small",
  "fixed_large": "large",
  "fixed_large_log": "large",
  "learned_range": "learned",
}
# Our sampler for each of their schedulers, with a usual number of steps.
_SAMPLERS: dict[str, dict[str, Any]] = {
  "DDIMScheduler": {"name": "ddim", "num_steps": 50},
  "DDPMScheduler": {"name": "ancestral", "num_steps": 1000},
  "DEISMultistepScheduler": {"name": "deis", "num_steps": 20},
  "DPMSolverMultistepScheduler": {"name": "dpmpp_2m", "num_steps": 20},
  "DPMSolverSinglestepScheduler": {"name": "dpmpp_singlestep", "num_steps": 20},
  "EulerAncestralDiscreteScheduler": {"name": "ddim", "num_steps": 50, "eta": 1.0},
  "EulerDiscreteScheduler": {"name": "euler", "num_steps": 50},
  "HeunDiscreteScheduler": {"name": "heun", "num_steps": 25},
  "IPNDMScheduler": {"name": "ipndm", "num_steps": 50},
  "LMSDiscreteScheduler": {"name": "lms", "num_steps": 50},
  "PNDMScheduler": {"name": "plms", "num_steps": 50},
  "UniPCMultistepScheduler": {"name": "unipc", "num_steps": 20},
}
_LEADING = {"DDIMScheduler", "DDPMScheduler", "PNDMScheduler"}
_MULTISTEP = {
  "DEISMultistepScheduler",
  "DPMSolverMultistepScheduler",
  "DPMSolverSinglestepScheduler",
  "UniPCMultistepScheduler",
}
_SIGMAS = {
  "use_karras_sigmas": "karras",
  "use_exponential_sigmas": "geometric",
  "use_lu_lambdas": "geometric",
}
_EXPLODING = "ScoreSdeVeScheduler"
# Old names of fields, which diffusers renames as well when it loads a file.
_RENAMED = {"clip_predicted_image": "clip_sample"}
_PREDICT_EPSILON = "predict_epsilon"  # before prediction_type: whether it is 'epsilon' or 'sample'
_KNOWN = {
  *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
  *("prediction_type", "variance_type", "rescale_betas_zero_snr"),
  *("timestep_spacing", "steps_offset", "set_alpha_to_one", "final_sigmas_type"),
  *("use_beta_sigmas", "use_flow_sigmas", *_SIGMAS, "sigma_min", "sigma_max"),
  *("thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
  *("clip_sample", "clip_sample_range", "snr", "correct_steps"),
  *("algorithm_type", "solver_order", "solver_type", "predict_x0", "lower_order_final"),
  *("skip_prk_steps", "interpolation_type"),
}
# Irrelevant fields: numbers of a run, and guards for another arithmetic.
_WITHOUT_EFFECT = {
  *("tensor_format", "timestep_values", "timesteps", "timestep_type", "flow_shift"),
  *("lambda_min_clipped", "euler_at_final", "disable_corrector", "solver_p", "sampling_eps"),
  *("use_dynamic_shifting", "time_shift_type"),
}


@dataclasses.dataclass(frozen=True)
class Scheduler:
  """Contents of a scheduler_config.json.

  Attributes:
    schedule: the process.
    kind: of the network's output, 'noise', 'x0', 'v' or 'score'.
    num_train_steps: T of a discrete process; None if the network is conditioned on sigma.
    learned_variance: True if the network also outputs a variance.
    sampler: name, num_steps, grid and options, as in config.sampler.
    clip: changes x0, `(predict, keep_noise=...) -> predict`; None for no change.
    bounds: range of the images' values.
  """

  schedule: Schedule
  kind: str
  num_train_steps: int | None
  learned_variance: bool
  sampler: dict[str, Any]
  clip: Callable[..., Predict] | None
  bounds: tuple[float, float]


def read_scheduler(config: Mapping[str, Any]) -> Scheduler:
  """Reads the scheduler that a scheduler_config.json describes.

  Raises:
    PretrainedError: its class, or an option, is not supported.
  """
  name = config.get("_class_name")
  config = _current_fields(config)
  if name == _EXPLODING:
    return _exploding(config)
  if not isinstance(name, str) or name not in _SAMPLERS:
    known = ", ".join([*sorted(_SAMPLERS), _EXPLODING])
    raise PretrainedError(
      f"_class_name = {shown(name)} is no scheduler known here (known: {known})"
    )
  steps = _number(config, "num_train_timesteps", 1000, 1, _MAX_STEPS, whole=True)
  sampler = {**_SAMPLERS[name], **_solver(config, name), **_grid(config, name, steps)}
  sampler["num_steps"] = min(sampler["num_steps"], steps)
  kind = _choice(config, "prediction_type", "epsilon", _KINDS)
  variance = _choice(config, "variance_type", "fixed_small", (*_VARIANCES, None)) or "fixed_small"
  if name == "DDPMScheduler":
    sampler["variance"] = _VARIANCES[variance]
  betas = _betas(config, steps)
  try:
    schedule = Discrete(betas, zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)))
  except ValueError as error:
    raise PretrainedError(str(error).splitlines()[0]) from None
  return Scheduler(
    schedule=schedule,
    kind=_KINDS[kind],
    num_train_steps=steps,
    learned_variance=variance == "learned_range",
    sampler=sampler,
    clip=_clip(config, name),
    bounds=(-1.0, 1.0),
  )


def _current_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the config with old fields renamed.

  Raises:
    PretrainedError: a field is not supported, or an old one contradicts its current one.
  """
  fields: dict[str, Any] = {}
  for field, value in config.items():
    if field.startswith("_") or field in _WITHOUT_EFFECT:
      continue
    if field == _PREDICT_EPSILON:
      if not isinstance(value, bool):
        raise PretrainedError(f"{field} = {shown(value)} must be true or false")
      present, current = "prediction_type", "epsilon" if value else "sample"
    else:
      present, current = _RENAMED.get(field, field), value
    if present not in _KNOWN:
      if value is None:
        continue
      raise PretrainedError(
        f"{field} = {shown(value)} is not supported; remove it from the file if it has no effect"
      )
    if present in config and config[present] != current:
      raise PretrainedError(
        f"{field} = {shown(value)} contradicts {present} = {shown(config[present])}"
      )
    fields[present] = current
  return fields


def _solver(config: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns the name and options of the sampler that a scheduler's options select."""
  if name == "PNDMScheduler":
    return {"warm_up": "heun" if config.get("skip_prk_steps") else "runge_kutta"}
  if name not in _MULTISTEP:
    _only(config, "interpolation_type", "linear")
    return {}
  order = _number(config, "solver_order", 2, 1, 3, whole=True)
  # One of another solver stands for a solver's own default, as diffusers has it.
  kind = _choice(config, "solver_type", "", ("", "midpoint", "heun", "logrho", "bh1", "bh2"))
  if name == "DEISMultistepScheduler":
    _only(config, "algorithm_type", "deis")
    return {"order": order}
  if name == "UniPCMultistepScheduler":
    view = "x0" if config.get("predict_x0", True) else "noise"
    return {"order": order, "solver_type": "bh1" if kind == "bh1" else "bh2", "view": view}
  options = {"solver_type": kind if kind == "heun" else "midpoint"}
  if name == "DPMSolverSinglestepScheduler":
    _only(config, "algorithm_type", "dpmsolver++")
    return {"order": order, **options}
  algorithms = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "deis")
  algorithm = _choice(config, "algorithm_type", "dpmsolver++", algorithms)
  if algorithm == "sde-dpmsolver++":
    _only(config, "solver_order", 2)
    return {"name": "dpmpp_2m_sde", **options}
  if order == 1:
    return {"name": "ddim"}
  view = "noise" if algorithm == "dpmsolver" else "x0"
  if order == 3:
    return {"name": "dpmpp_3m", "curvature": 0.5, "view": view, **options}
  return {"view": view, **options}


def _only(config: Mapping[str, Any], field: str, known: Any) -> None:
  """Raises PretrainedError if a field differs from its single supported value, the default."""
  if (value := config.get(field, known)) != known:
    raise PretrainedError(f"{field} = {shown(value)} is not supported (known: {known})")


def _grid(config: Mapping[str, Any], name: str, steps: int) -> dict[str, Any]:
  """Returns the grid of a scheduler's options, as in config.sampler.

  A last step of zero width, after the process's cleanest step, is left out.
  """
  linspace, multistep = name not in _LEADING, name in _MULTISTEP
  spacing = _choice(config, "timestep_spacing", "linspace" if linspace else "leading", _SPACINGS)
  offset = _number(config, "steps_offset", 0, 0, steps - 1, whole=True)
  ends = [name != "DEISMultistepScheduler"]
  if name in ("DDIMScheduler", "PNDMScheduler"):
    ends.append(config.get("set_alpha_to_one", name == "DDIMScheduler") is not False)
  ends.append(_choice(config, "final_sigmas_type", "zero", ("zero", "sigma_min")) == "zero")
  open_end = {} if all(ends) else {"to_data": False}
  for option in ("use_beta_sigmas", "use_flow_sigmas"):
    if config.get(option):
      raise PretrainedError(f"{option} = True is not supported: choose the grid in config.sampler")
  for option, grid in _SIGMAS.items():
    if not config.get(option):
      continue
    if spacing != "linspace" and not multistep:
      raise PretrainedError(
        f"{option} = True with timestep_spacing = {spacing} has ends that depend on the number of "
        "steps, which is not supported: choose the grid in config.sampler"
      )
    given = {k: config[k] for k in ("sigma_min", "sigma_max") if config.get(k) is not None}
    limits = {k: _number(given, k, 1.0, 1e-8, 1e8) for k in given}
    return {"grid": grid, **limits, **open_end}
  if multistep and spacing == "linspace":
    spacing = "trailing"  # they take the first N of N + 1: the same to within a step
  moved = {"steps_offset": offset} if offset else {}
  return {"grid": "timesteps", "spacing": spacing, **moved, **open_end}


def _exploding(config: Mapping[str, Any]) -> Scheduler:
  low = _number(config, "sigma_min", 0.01, 1e-8, 1e8)
  high = _number(config, "sigma_max", 1348.0, low * (1 + 1e-6), 1e9)
  sampler = {
    "name": "predictor_corrector",
    "num_steps": _number(config, "num_train_timesteps", 2000, 1, _MAX_STEPS, whole=True),
    "grid": "geometric",
    "snr": _number(config, "snr", 0.15, 1e-6, 10),
    "corrector_steps": _number(config, "correct_steps", 1, 0, 100, whole=True),
  }
  schedule = GeometricVarianceExploding(sigma_min=low, sigma_max=high)
  return Scheduler(schedule, "score", None, False, sampler, None, (0.0, 1.0))


def _betas(config: Mapping[str, Any], steps: int) -> np.ndarray:
  """Returns the table of betas, [T]."""
  if (trained := config.get("trained_betas")) is not None:
    numbers = isinstance(trained, (list, tuple)) and all(type(b) in (int, float) for b in trained)
    if not numbers or len(trained) != steps:
      raise PretrainedError(f"trained_betas must be {steps} numbers, num_train_timesteps of them")
    return np.asarray(trained, float)
  ends = {
    "num_levels": steps,
    "beta_min": _number(config, "beta_start", 1e-4, 1e-12, 1),
    "beta_max": _number(config, "beta_end", 0.02, 1e-12, 1),
  }
  tables: dict[str, Callable[[], np.ndarray]] = {
    "linear": lambda: linear_betas(**ends),
    "scaled_linear": lambda: scaled_linear_betas(**ends),
    "sigmoid": lambda: sigmoid_betas(**ends, start=-6.0, end=6.0),
    "squaredcos_cap_v2": lambda: cosine_betas(num_levels=steps),
  }
  return tables[_choice(config, "beta_schedule", "linear", tables)]()


def _clip(config: Mapping[str, Any], name: str) -> Callable[..., Predict] | None:
  """Returns the clipping of x0: on by default for DDIM and DDPM, off for other schedulers."""
  by_default = name in ("DDIMScheduler", "DDPMScheduler")
  if config.get("thresholding", False):
    quantile = _number(config, "dynamic_thresholding_ratio", 0.995, 0, 1)
    limit = _number(config, "sample_max_value", 1.0, 1, 1e6)

    def threshold(predict: Predict, *, keep_noise: bool) -> Predict:
      return thresholded(
        predict,
        clip_quantile=quantile,
        clip_limit=limit,
        clip_keep_noise=keep_noise,
        event_ndim=3,
      )

    return threshold
  if not config.get("clip_sample", by_default):
    return None
  limit = _number(config, "clip_sample_range", 1.0, 1e-6, 1e6)

  def clip(predict: Predict, *, keep_noise: bool) -> Predict:
    return clipped(predict, clip_limit=limit, clip_keep_noise=keep_noise)

  return clip


def _choice(config: Mapping[str, Any], field: str, default: str, known: Any) -> Any:
  value = config.get(field, default)
  if not isinstance(value, (str, type(None))) or value not in known:
    names = ", ".join(str(name) for name in known)
    raise PretrainedError(f"{field} = {shown(value)} is not supported (known: {names})")
  return value


def _number(
  config: Mapping[str, Any],
  field: str,
  default: float,
  low: float,
  high: float,
  *,
  whole: bool = False,
) -> Any:
  value = config.get(field, default)
  good = type(value) is int or (type(value) is float and not whole and math.isfinite(value))
  if not good or not low <= value <= high:
    raise PretrainedError(f"{field} = {shown(value)} must be from {low:g} to {high:g}")
  return value


def write_scheduler(schedule: Schedule, kind: str, *, learned_variance: bool) -> dict[str, Any]:
  """Returns the scheduler_config.json of a discrete or a geometric variance-exploding process.

  Args:
    schedule: one of these two.
    kind: of the network's output.
    learned_variance: True if the network also outputs a variance.

  Raises:
    PretrainedError: diffusers has no such process or output.
  """
  version = {"_diffusers_version": "0.35.0"}
  if isinstance(schedule, GeometricVarianceExploding) and kind == "score":
    ends = {"sigma_min": float(schedule.sigma_min), "sigma_max": float(schedule.sigma_max)}
    return {"_class_name": _EXPLODING, **version, **ends, "num_train_timesteps": 2000}
  kinds = {ours: theirs for theirs, ours in _KINDS.items()}
  if not isinstance(schedule, Discrete) or kind not in kinds:
    raise PretrainedError(
      f"diffusers has no scheduler of {type(schedule).__name__} for a network that gives {kind!r}: "
      "a process of T betas with noise, x0 or v has one; save_model (--format=plain) writes any"
    )
  betas = betas_of(schedule)
  return {
    "_class_name": "DDPMScheduler",
    **version,
    "num_train_timesteps": len(betas),
    "trained_betas": betas.tolist(),
    "beta_schedule": "linear",
    "prediction_type": kinds[kind],
    "variance_type": "learned_range" if learned_variance else "fixed_small",
    "clip_sample": False,
    "timestep_spacing": "trailing",
  }


def betas_of(schedule: Discrete) -> np.ndarray:
  """Returns the table of betas, [T], of a discrete process."""
  log_snrs = np.asarray(jax.device_get(schedule.log_snrs), float)
  log_alphas = -np.logaddexp(0, -2 * log_snrs) / 2
  betas = -np.expm1(2 * np.diff(log_alphas, prepend=0.0))
  return betas if schedule.noise_time is None else np.append(betas, 1.0)
