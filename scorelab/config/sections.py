"""Sections of a config: types, ranges and defaults of all fields that are not options of a part.

Every other field is an option of a part, in that part's signature. None is the part's own default,
or nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

from scorelab.ranges import Above, AtLeast, Between, Count, FromTo


@dataclasses.dataclass(frozen=True)
class Whole:
  """Fields of no section.

  Attributes:
    seed: every random number of a run follows from it.
    matmul_precision: 'float32' keeps TF32 and bfloat16 out of matrix products; 'default' lets the
      device choose.
  """

  seed: Annotated[int, FromTo(0, 2**32 - 1)] = 0
  matmul_precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Several trainings in one program: see scorelab/training/ensembles.py.

  Attributes:
    seeds: number of seeds: seed, seed + 1, ...
    over: fields and their values, 'optimizer.learning_rate=1e-3,3e-3 sampler.eta=0,1', each with
      every seed.
  """

  seeds: Annotated[int, Count(10_000)] | None = None
  over: str | None = None


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A model of another library instead of training: see scorelab/evaluation/pretrained.py.

  Attributes:
    path: a directory, or a hub id.
    revision: of a hub id.
    variant: of the weights: 'fp16', 'non_ema', 'ema'.
    image_size: side of the images; None is the model's own.
    label: the class; None takes all in turn.
    clip: False does not clip x0, even if the model's scheduler does.
  """

  path: str | None = None
  revision: str | None = None
  variant: str | None = None
  image_size: Annotated[int, AtLeast(1)] | None = None
  label: Annotated[int, AtLeast(0)] | None = None
  clip: bool | None = None


@dataclasses.dataclass(frozen=True)
class Target:
  """The distribution to sample from.

  Attributes:
    name: a target of the registry, or 'module.function'.
    num_train: points of a fixed training set; 0 draws new ones for every batch, or uses the
      target's own.
  """

  name: str = "nine_modes"
  num_train: Annotated[int, AtLeast(0)] = 0


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The forward process.

  Attributes:
    name: a schedule of the registry, or 'module.Class'.
    shift: added to the schedule's log(alpha / sigma); log(64 / d) for images of side d.
  """

  name: str = "variance_exploding"
  shift: float | None = None


@dataclasses.dataclass(frozen=True)
class Network:
  """The network.

  Attributes:
    name: a network of the registry, or 'module.Class'.
  """

  name: str = "residual_mlp"


@dataclasses.dataclass(frozen=True)
class Parameterization:
  """Reading of the network's output.

  Attributes:
    name: a parameterization of the registry; 'exact' uses the exact score instead of a network.
    conditioning: the network's input for the level.
  """

  name: str = "edm"
  conditioning: str = "log_sigma"


@dataclasses.dataclass(frozen=True)
class Loss:
  """The training loss.

  Attributes:
    name: a loss of the registry, or 'module.function'.
  """

  name: str = "ncsn"


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """The optimizer's rule, with learning-rate schedule, clipping, weight decay and averages.

  Attributes:
    name: a rule of the registry, or 'module.function'.
    learning_rate: its peak.
    decay: of the learning rate after the warm-up, to 0: 'cosine' or 'constant'.
    warmup_steps: steps of linear warm-up from 0.
    clip_norm: largest norm of the whole gradient; 0 does not clip.
    weight_decay: share of the parameters taken off a step, per unit of learning rate.
    ema_decays: averages of the parameters; the slowest one is evaluated, () evaluates the
      parameters themselves.
  """

  name: str = "adam"
  learning_rate: Annotated[float, Above(0)] = 1e-3
  decay: str = "cosine"
  warmup_steps: Annotated[int, AtLeast(0)] = 200
  clip_norm: Annotated[float, AtLeast(0)] = 1.0
  weight_decay: Annotated[float, AtLeast(0)] | None = None
  ema_decays: Annotated[tuple[float, ...], Between(0, 1, "[)")] = (0.999,)


@dataclasses.dataclass(frozen=True)
class Training:
  """The training loop.

  Attributes:
    num_steps: optimizer steps; 0 trains nothing.
    batch_size: points of a batch; 0 is the whole training set.
    accumulate: number of sequential parts of a batch, which takes less memory;
      None is 1.
    sharding: of parameters over several devices: 'replicated' (None), or 'fsdp', split over them.
    log_every: steps between two lines of metrics.jsonl.
    checkpoint_every: steps between two checkpoints and validations.
    keep_every: keeps checkpoints at multiples of this step; 0 keeps only the latest and best.
    num_validation: points drawn for validation, if the target has none of its own.
    validation_repeats: times that each of them is used, each at its own level.
    monitor: selects the best validation by 'val_loss' or 'score_error'.
    patience: validations without a better one after which training stops; 0 for never.
  """

  num_steps: Annotated[int, AtLeast(0)] = 6000
  batch_size: Annotated[int, AtLeast(0)] = 1024
  accumulate: Annotated[int, AtLeast(1)] | None = None
  sharding: str | None = None
  log_every: Annotated[int, AtLeast(1)] = 100
  checkpoint_every: Annotated[int, AtLeast(1)] = 1000
  keep_every: Annotated[int, AtLeast(0)] = 0
  num_validation: Annotated[int, AtLeast(1)] = 10_000
  validation_repeats: Annotated[int, AtLeast(1)] | None = None
  monitor: str = "val_loss"
  patience: Annotated[int, AtLeast(0)] = 0


@dataclasses.dataclass(frozen=True)
class Sampler:
  """The main row of the evaluation.

  Attributes:
    name: a sampler or a Langevin kernel of the registry, or 'module.function'.
    num_steps: steps of the grid, or of a chain.
    grid: the levels that a sampler visits.
    guidance: 'classifier_free', 'classifier' or 'autoguidance', for all rows that set no other.
    guidance_weak: the weaker model of autoguidance: 0 for the parameters themselves, an average's
      decay, or the step of a checkpoint that training.keep_every kept.
    clipping: of x0, after guidance and for all rows: 'static' to +-clip_limit, or 'dynamic'.
    posterior: a posterior method of the registry, for all rows that are no sampler of posteriors;
      None is the exact conditional score, if parameterization.name = 'exact'.
    start_std: of Langevin kernels: chains start at N(0, start_std^2 I).
    sigma: of Langevin kernels: noise std of the law that they sample, 0 for the data's.
  """

  name: str = "dpmpp_2m"
  num_steps: Annotated[int, Count(1_000_000)] = 16
  grid: str = "karras"
  guidance: str | None = None
  guidance_weak: Annotated[float, AtLeast(0)] | None = None
  clipping: str | None = None
  posterior: str | None = None
  start_std: Annotated[float, Above(0)] | None = None
  sigma: Annotated[float, AtLeast(0)] | None = None


@dataclasses.dataclass(frozen=True)
class Observation:
  """A linear observation y = A x + noise_std n: evaluation is then of the law of x given y.

  Attributes:
    name: an operator of the registry, A; its options are fields of this section. None and no path
      for no observation.
    path: an NPZ file with y [m], and with A [m, d] unless an operator is named.
    noise_std: standard deviation of the noise of y; None is 0.1.
    seed: of the point x and the noise, if y is not in a file; None is 0.
  """

  name: str | None = None
  path: str | None = None
  noise_std: Annotated[float, AtLeast(0)] | None = None
  seed: Annotated[int, FromTo(0, 2**32 - 1)] | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Settings of an evaluation.

  Attributes:
    checkpoint: 'last' or 'best'.
    ema: decay of the average that is measured, one of optimizer.ema_decays; None is the slowest, 0
      the parameters themselves.
    rows: further rows, each the main sampler's settings with changes, 'name:num_steps:field=value'.
    num_keys: independent repetitions, for the standard errors.
    num_samples: samples for each key.
    batch_size: samples drawn at a time; None draws a key's all at once.
    num_reference: points of the reference.
    reference: 'fresh' draws for every key, the 'train' set, or the target's 'test' set.
    labels: given to a conditional network: 'data' (default), 'uniform', or one class, '3'.
    num_projections: of the sliced distances.
    metrics: each 'name' or 'name:field=value', as in 'sliced_wasserstein:p=1'.
    features: of all metrics in features, instead of the network that each names: 'classifier',
      'rotations', 'inception' with the file of its weights, or 'module.function' of yours.
    inception_path: file of the weights of 'inception'.
    score_levels: sigma / alpha at which the score error is measured.
    score_samples: draws at each of them.
    exact: True adds errors without sampling noise, 'KL, nats' and, on the line and on Gaussians,
      'W2', to rows whose law is known, and KL by level: see docs/exact.md. None is False.
    likelihood_points: held-out points of which the log-likelihood is computed; None or 0 for none.
      See LikelihoodProtocol.
    likelihood_method: 'heun', 'rk4' or 'adaptive'.
    likelihood_num_steps: steps of 'heun' and 'rk4'.
    likelihood_divergence: 'exact' or 'hutchinson'.
    likelihood_num_probes: probes of 'hutchinson'.
    likelihood_tolerance: of 'adaptive'.
    likelihood_bound_steps: steps of the variational bound.
  """

  checkpoint: str = "last"
  ema: Annotated[float, Between(0, 1, "[)")] | None = None
  rows: tuple[str, ...] = ("dpmpp_2m:32", "heun:16", "ddim:32:eta=1.0")
  num_keys: Annotated[int, AtLeast(1)] = 10
  num_samples: Annotated[int, AtLeast(1)] = 2000
  batch_size: Annotated[int, AtLeast(1)] | None = None
  num_reference: Annotated[int, AtLeast(1)] = 10_000
  reference: str = "fresh"
  labels: str | None = None
  num_projections: Annotated[int, AtLeast(1)] = 1000
  metrics: tuple[str, ...] = (
    "max_sliced_wasserstein",
    "sliced_wasserstein",
    "energy_distance",
    "mode_weight_tv",
    "off_mode_share",
    "within_mode_std",
  )
  features: str | None = None
  inception_path: str | None = None
  score_levels: Annotated[tuple[float, ...], AtLeast(0)] = (
    *(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0),
  )
  score_samples: Annotated[int, AtLeast(1)] = 4096
  exact: bool | None = None
  likelihood_points: Annotated[int, AtLeast(0)] | None = None
  likelihood_method: str | None = None
  likelihood_num_steps: Annotated[int, AtLeast(1)] | None = None
  likelihood_divergence: str | None = None
  likelihood_num_probes: Annotated[int, AtLeast(1)] | None = None
  likelihood_tolerance: Annotated[float, Above(0)] | None = None
  likelihood_bound_steps: Annotated[int, AtLeast(2)] | None = None


SECTIONS: dict[str, type] = {
  "ensemble": Ensemble,
  "pretrained": Pretrained,
  "target": Target,
  "schedule": Schedule,
  "network": Network,
  "parameterization": Parameterization,
  "loss": Loss,
  "optimizer": Optimizer,
  "training": Training,
  "sampler": Sampler,
  "observation": Observation,
  "evaluation": Evaluation,
}
"""The sections of a config."""
