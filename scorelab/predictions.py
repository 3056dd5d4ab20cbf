"""One prediction, every view: x0, noise, score, v and flow of a network or of the truth.

    x_t = alpha x_0 + sigma eps
    x0    = E[x_0 | x_t]               noise = (x - alpha x0) / sigma      score = -noise / sigma
    v     = alpha noise - sigma x0     flow  = noise - x0

References:
  Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022
    (arXiv 2202.00512), appendix D: v.
  Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023 (arXiv 2210.02747): flow.
  Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    NeurIPS 2022 (arXiv 2206.00364), table 1: preconditioning.
  Salimans and Ho, "Should EBMs model the energy or the score?", ICLR 2021 workshop on energy-based
    models; Du et al., "Reduce, Reuse, Recycle", ICML 2023 (arXiv 2302.11552): energies.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from scorelab.schedules import Level, Schedule, require_time
from scorelab.typing import Array, Key, Params, Predict

# From each kind of value straight to x0 and to the noise: (x, alpha, sigma, value) -> view.
_TO_X0: dict[str, Callable[..., Array]] = {
  "consistency": lambda x, alpha, sigma, end: end,
  "x0": lambda x, alpha, sigma, x0: x0,
  "noise": lambda x, alpha, sigma, noise: (x - sigma * noise) / alpha,
  "score": lambda x, alpha, sigma, score: (x + sigma**2 * score) / alpha,
  # The denominator is 1 for variance-preserving processes only.
  "v": lambda x, alpha, sigma, v: (alpha * x - sigma * v) / (alpha**2 + sigma**2),
  "flow": lambda x, alpha, sigma, flow: (x - sigma * flow) / (alpha + sigma),
}
_TO_NOISE: dict[str, Callable[..., Array]] = {
  "x0": lambda x, alpha, sigma, x0: (x - alpha * x0) / sigma,
  "noise": lambda x, alpha, sigma, noise: noise,
  "score": lambda x, alpha, sigma, score: -sigma * score,
  "v": lambda x, alpha, sigma, v: (sigma * x + alpha * v) / (alpha**2 + sigma**2),
  "flow": lambda x, alpha, sigma, flow: (x + alpha * flow) / (alpha + sigma),
}
# |x0 error| per unit of error in each view, the slopes of _TO_X0: a loss computed in the
# network's own view is weighted by the square.
_X0_SLOPE: dict[str, Callable[[Array, Array], Array]] = {
  "x0": lambda alpha, sigma: jnp.ones_like(sigma),
  "noise": lambda alpha, sigma: sigma / alpha,
  "score": lambda alpha, sigma: sigma**2 / alpha,
  "v": lambda alpha, sigma: sigma / (alpha**2 + sigma**2),
  "flow": lambda alpha, sigma: sigma / (alpha + sigma),
}


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["x", "level", "views", "x0_variance", "variance_fraction", "log_density"],
  meta_fields=["kind"],
)
@dataclasses.dataclass(frozen=True)
class Prediction:
  """A prediction at x, in every view.

  Attributes:
    x: the noisy points, [*batch, *event].
    level: their level, of shape [] or [*batch].
    views: the views that were computed apart, by name, each of x's shape; holds `kind` at least.
    kind: the view from which the others are derived. Static.
    x0_variance: diagonal of Cov[x_0 | x_t], of x's shape, where it is known.
    variance_fraction: a network's learned interpolation between the log posterior variance (0)
      and log beta (1), of x's shape, where it has one.
    log_density: log q_t(x) up to a constant of the level, of x's batch shape, where it is known:
      to the truth, and to a network whose score is the gradient of an energy.
  """

  x: Array
  level: Level
  views: dict[str, Array]
  kind: str
  x0_variance: Array | None = None
  variance_fraction: Array | None = None
  log_density: Array | None = None

  @classmethod
  def of(
    cls,
    x: Array,
    level: Level,
    kind: str,
    *,
    x0_variance: Array | None = None,
    variance_fraction: Array | None = None,
    log_density: Array | None = None,
    **views: Array,
  ) -> Prediction:
    """A prediction from the views at hand; `kind` names the one that the others follow from.

    Raises:
      ValueError: `kind` is unknown or not among the views given.
    """
    if kind not in _TO_X0 or kind not in views:
      raise ValueError(f"kind = {kind!r} must be one of {', '.join(_TO_X0)} and be given")
    return cls(x, level, views, kind, x0_variance, variance_fraction, log_density)

  def view(self, name: str) -> Array:
    """The view of this name: 'x0', 'noise', 'score', 'v' or 'flow', of x's shape."""
    return getattr(self, name)

  def _derive(self, formulas: dict[str, Callable[..., Array]]) -> Array:
    if self.kind not in formulas:
      raise ValueError(
        f"a prediction of kind {self.kind!r} is no posterior mean and has no noise or score: "
        "use renoise"
      )
    level = self.level.like(self.x)
    return formulas[self.kind](self.x, level.alpha, level.sigma, self.views[self.kind])

  @property
  def x0(self) -> Array:
    """E[x_0 | x_t], the denoised point, of x's shape; the flow's end for kind 'consistency'."""
    return self.views["x0"] if "x0" in self.views else self._derive(_TO_X0)

  @property
  def noise(self) -> Array:
    """E[eps | x_t], of x's shape."""
    return self.views["noise"] if "noise" in self.views else self._derive(_TO_NOISE)

  @property
  def score(self) -> Array:
    """The score of q_t, of x's shape. Defined at sigma = 0 where it was given as such."""
    if "score" in self.views:
      return self.views["score"]
    return -self.noise / self.level.like(self.x).sigma

  @property
  def v(self) -> Array:
    """alpha noise - sigma x0, of x's shape."""
    if "v" in self.views:
      return self.views["v"]
    level = self.level.like(self.x)
    return level.alpha * self.noise - level.sigma * self.x0

  @property
  def flow(self) -> Array:
    """noise - x0, linear flow's velocity, of x's shape."""
    return self.views["flow"] if "flow" in self.views else self.noise - self.x0


def x0_slope(kind: str, level: Level) -> Array:
  """|x0 error| per unit of error in the view `kind`, of the level's shape."""
  return _X0_SLOPE[kind](level.alpha, level.sigma)


def noised(key: Key, x0: Array, level: Level) -> tuple[Array, Prediction]:
  """Draws x = alpha x0 + sigma eps and, in every view, what a network should say of it.

  Args:
    key: consumed.
    x0: clean points, [*batch, *event].
    level: of shape [] or [*batch].

  Returns:
    The noisy points, of x0's shape, and the prediction that knows x0 and eps.
  """
  return mixed(x0, jax.random.normal(key, x0.shape, x0.dtype), level)


def mixed(x0: Array, noise: Array, level: Level) -> tuple[Array, Prediction]:
  """`noised` with the noise given, of x0's shape."""
  at = level.like(x0)
  x = at.alpha * x0 + at.sigma * noise
  return x, Prediction.of(x, level, "x0", x0=x0, noise=noise)


@dataclasses.dataclass(frozen=True)
class Parameterization:
  """How a network's output is read: as the view `kind` itself.

  Attributes:
    apply: a Flax module's apply, `(variables, x [b, *event], c [b], ...) -> [b, *event]`.
    conditioning: what the network is told of the level, elementwise: one of CONDITIONINGS.
    kind: 'score', 'noise', 'x0', 'v' or 'flow'.
    event_ndim: axes of one point: 1 for points [d], 3 for images [height, width, channels].
    energy: whether the output is taken to be F = -grad_u E instead of the network's f(u) itself,
      u being the scaled input, so that a log-density exists whatever the reading. Costs about
      twice as much; the examples of a batch must not mix, and the activation should be smooth.

          E(u) = |f(u)|^2 / 2 - <u, f(u)>

      This is Salimans and Ho's |u - f|^2 / 2 (2021) without its |u|^2 / 2, so that a zero
      network is F = 0 as it is without an energy.
    learned_variance: whether the network gives 2c channels, c of them x's own: the second half v
      is read as the prediction's variance_fraction, (v + 1) / 2 (Nichol and Dhariwal 2021, eq. 15).

  Raises:
    ValueError: both `energy` and `learned_variance`: an energy's gradient has no second half.
  """

  apply: Callable[..., Any]
  conditioning: Callable[[Level], Array]
  kind: str
  event_ndim: int = 1
  energy: bool = False
  learned_variance: bool = False

  def __post_init__(self) -> None:
    if self.energy and self.learned_variance:
      raise ValueError("energy and learned_variance exclude each other")

  def scale_input(self, x: Array, level: Level) -> Array:
    """What the network sees of x; the level's fields broadcast with x."""
    del level
    return x

  def read(self, x: Array, level: Level, output: Array) -> Prediction:
    """The prediction that this output, of x's shape, stands for."""
    return Prediction.of(x, level, self.kind, **{self.kind: output})

  def read_variance(self, x: Array, level: Level, v: Array) -> Array:
    """The variance_fraction that a second half v, of x's shape, stands for."""
    del x, level
    return (v + 1) / 2

  def bind(
    self, params: Params, label: Array | None = None, rngs: dict[str, Key] | None = None
  ) -> Predict:
    """The predict function of these parameters. Call it inside the jitted function.

    Args:
      params: the network's parameters.
      label: class labels of x's batch shape, for a conditional network.
      rngs: keys by name for dropout; without them the network is deterministic.

    Returns:
      predict(x [*batch, *event], level [] or [*batch]) -> Prediction. The network itself always
      sees one batch axis.
    """

    def predict(x: Array, level: Level) -> Prediction:
      batch, event = x.shape[: x.ndim - self.event_ndim], x.shape[x.ndim - self.event_ndim :]

      def flat(a: Array) -> Array:
        return jnp.broadcast_to(a, batch).reshape(-1)

      inputs = self.scale_input(x, level.like(x)).reshape(-1, *event)
      told = [flat(self.conditioning(level))] + ([] if label is None else [flat(label)])

      def network(u: Array) -> Array:
        return self.apply({"params": params}, u, *told, rngs=rngs)

      if self.learned_variance:
        output, v = jnp.split(network(inputs).reshape(*batch, *event[:-1], -1), 2, axis=-1)
        fraction = self.read_variance(x, level, v)
        return dataclasses.replace(self.read(x, level, output), variance_fraction=fraction)
      if not self.energy:
        return self.read(x, level, network(inputs).reshape(x.shape))

      def minus_energy(u: Array) -> Array:
        f = network(u)
        return jnp.sum(u * f - f**2 / 2, axis=tuple(range(1, u.ndim)))

      value, pullback = jax.vjp(minus_energy, inputs)
      (output,) = pullback(jnp.ones_like(value))  # each point's own: examples do not mix
      pred = self.read(x, level, output.reshape(x.shape))
      log_density = self._log_density(x, level, value.reshape(batch))
      return dataclasses.replace(pred, log_density=log_density)

    return predict

  def _log_density(self, x: Array, level: Level, minus_energy: Array) -> Array:
    """The integral of the score that `read` makes of the output -grad E(u), of the batch shape.

    At one level u = a x, and the score that is read is affine in the output F:

        p x + r F(a x) = grad_x [ p |x|^2 / 2 - (r / a) E(a x) ]
    """
    zero = jnp.zeros_like(minus_energy)
    one = zero + 1
    a = self.scale_input(one, level)
    p, r = self.read(one, level, zero).score, self.read(zero, level, one).score
    squares = jnp.sum(x**2, axis=tuple(range(minus_energy.ndim, x.ndim)))
    return p * squares / 2 + r / a * minus_energy


@dataclasses.dataclass(frozen=True)
class EDM(Parameterization):
  """EDM's preconditioning, for any process: the network F sees and gives unit variance.

      x0 = c_skip x + c_out F(c_in x)             with V = sigma^2 + alpha^2 s^2
      c_in = V^-1/2    c_skip = alpha s^2 / V     c_out = sigma s V^-1/2

  Karras et al. 2022, table 1 and appendix B.6, where alpha = 1.

  Attributes:
    data_std: s, the std of the data over all coordinates, in the data's units.
  """

  kind: str = "x0"
  data_std: float = 1.0

  def scale_input(self, x: Array, level: Level) -> Array:
    return x / _marginal_std(level, self.data_std)

  def read(self, x: Array, level: Level, output: Array) -> Prediction:
    at, s = level.like(x), self.data_std
    total = at.sigma**2 + (at.alpha * s) ** 2
    x0 = (at.alpha * s**2 / total) * x + (at.sigma * s / jnp.sqrt(total)) * output
    # (x - alpha x0) / sigma worked out by hand: at little noise the difference would cancel.
    noise = (at.sigma / total) * x - (at.alpha * s / jnp.sqrt(total)) * output
    return Prediction.of(x, level, "x0", x0=x0, noise=noise)


def ratio_ends(schedule: Schedule) -> tuple[Array, Array]:
  """The least and the largest sigma / alpha of a schedule's own range, each []."""
  low, high = (schedule.log_snr(jnp.asarray(t)) for t in (schedule.t_min, schedule.t_max))
  return jnp.exp(-low), jnp.exp(-high)


@dataclasses.dataclass(frozen=True)
class Consistency(EDM):
  """The end of the probability flow through x, at the schedule's least noise.

      f(x) = c_skip x / alpha + c_out F(c_in x)      with r = sigma / alpha
      c_skip = s^2 / ((r - r_min)^2 + s^2)           c_out = s (r - r_min) / sqrt(r^2 + s^2)

  At r_min it is x / alpha whatever the network says. No posterior mean: it has an x0, but neither
  noise nor score. Song et al., "Consistency Models", ICML 2023 (arXiv 2303.01469), appendix C.

  Attributes:
    schedule: the process.

  Raises:
    ValueError: without a schedule.
  """

  kind: str = "consistency"
  schedule: Schedule | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.schedule is None or self.energy or self.learned_variance:
      raise ValueError("consistency needs a schedule, and takes no energy and no learned_variance")

  def read(self, x: Array, level: Level, output: Array) -> Prediction:
    assert self.schedule is not None
    at, s = level.like(x), self.data_std
    ratio = at.sigma / at.alpha
    past = ratio - ratio_ends(self.schedule)[0]
    skip, out = s**2 / (past**2 + s**2), s * past / jnp.sqrt(ratio**2 + s**2)
    return Prediction.of(x, level, self.kind, consistency=skip * x / at.alpha + out * output)


@dataclasses.dataclass(frozen=True)
class ScaledScore(Parameterization):
  """The score of data scaled to unit std, for any process: defined at the data too, sigma = 0.

      s(x) = F(x / c) / c      with c = sqrt(sigma^2 + alpha^2 data_std^2)

  Attributes:
    data_std: the std of the data over all coordinates, in the data's units.
  """

  kind: str = "score"
  data_std: float = 1.0

  def scale_input(self, x: Array, level: Level) -> Array:
    return x / _marginal_std(level, self.data_std)

  def read(self, x: Array, level: Level, output: Array) -> Prediction:
    return Prediction.of(
      x, level, "score", score=output / _marginal_std(level.like(x), self.data_std)
    )


@dataclasses.dataclass(frozen=True)
class ReverseStep(Parameterization):
  """A reverse step of a discrete chain: the network gives the law N(m, V) of x_s given x_t.

  The chain has T levels, t = 1/T..1, and s = t - 1/T. With output (F, v), a coordinate at a time,

      absolute    m = F                       log V = v
      relative    m = x_t + sqrt(small) F     log V = log small + v

  where small is the variance of q(x_s | x_t, x_0), whose mean is c_x x_t + c_0 x_0 (see
  samplers/ancestral.py). Read as x0 = (m - c_x x_t) / c_0 and as the fraction of log V between
  log small (0) and log beta (1), the step that an ancestral sampler with 'learned' variance takes
  and that `stepwise_kl` judges is N(m, V) itself. From t = 1/T there is no step: it is read against
  the schedule's own level at 0, is asked for by neither, and a chain ends there.

  Sohl-Dickstein et al., "Deep Unsupervised Learning using Nonequilibrium Thermodynamics", ICML 2015
  (arXiv 1503.03585), section 2.2 and appendix D.2.

  Attributes:
    schedule: the process.
    num_train_steps: T.
    relative: the second form; what is left to learn is then of order 1 at every step.

  Raises:
    ValueError: without a schedule, or without a learned variance.
  """

  kind: str = "x0"
  schedule: Schedule | None = None
  num_train_steps: int = 1000
  relative: bool = True

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.schedule is None or not self.learned_variance:
      raise ValueError("a reverse step needs a schedule and learned_variance = True")

  def _posterior(self, x: Array, level: Level) -> tuple[Array, Array, Array, Array]:
    """(c_x, c_0, small, beta / small), broadcasting with x."""
    assert self.schedule is not None
    now = level.like(x)
    nxt = self.schedule.at(require_time(level) - 1 / self.num_train_steps).like(x)
    a, shrink = now.alpha / nxt.alpha, (nxt.sigma / now.sigma) ** 2
    part = 1 - a**2 * shrink  # of sigma_t^2, the part that is beta
    return a * shrink, part * nxt.alpha, part * nxt.sigma**2, 1 / shrink

  def read(self, x: Array, level: Level, output: Array) -> Prediction:
    c_x, c_0, small, _ = self._posterior(x, level)
    mean = x + jnp.sqrt(small) * output if self.relative else output
    return Prediction.of(x, level, "x0", x0=(mean - c_x * x) / c_0)

  def read_variance(self, x: Array, level: Level, v: Array) -> Array:
    _, _, small, excess = self._posterior(x, level)
    return (v if self.relative else v - jnp.log(small)) / jnp.log(excess)


@dataclasses.dataclass(frozen=True)
class Exact:
  """The truth in a network's place: whatever the parameters, `predict`.

  Attributes:
    predict: the truth.
    of_class: `(x, level, label) -> Prediction`, the truth given a label of x's batch shape, where
      it is known.
  """

  predict: Predict
  of_class: Callable[[Array, Level, Array], Prediction] | None = None

  def bind(
    self, params: Params, label: Array | None = None, rngs: dict[str, Key] | None = None
  ) -> Predict:
    """The predict function, of a class where there is a label; nothing is learned."""
    del params, rngs
    if label is None:
      return self.predict
    if self.of_class is None:
      raise ValueError("a label is given, and this truth knows of no classes")
    of_class = self.of_class
    return lambda x, level: of_class(x, level, label)


def _marginal_std(level: Level, data_std: float) -> Array:
  """The std of x_t over all coordinates, of the level's shape."""
  return jnp.sqrt(level.sigma**2 + (level.alpha * data_std) ** 2)


PARAMETERIZATIONS: dict[str, Callable[..., Parameterization]] = {
  **{kind: functools.partial(Parameterization, kind=kind) for kind in _TO_NOISE},
  "consistency": Consistency,
  "edm": EDM,
  "reverse_step": ReverseStep,
  "scaled_score": ScaledScore,
}


def log_sigma(level: Level) -> Array:
  """log(sigma / alpha) / 4: EDM's c_noise in the variance-exploding form."""
  return -level.log_snr / 4


def signal_level(level: Level) -> Array:
  """alpha^2: DDPM's alpha_bar."""
  return level.alpha**2


def noise_ratio(level: Level) -> Array:
  """sigma / alpha: what NCSN++ is told."""
  return level.sigma / level.alpha


def time(level: Level) -> Array:
  """t itself, in [0, 1]."""
  return require_time(level)


def time_index(level: Level, *, num_train_steps: int = 1000) -> Array:
  """The step i of a discrete process of T steps, t = (i + 1) / T: round(t T) - 1, as a float."""
  return jnp.round(require_time(level) * num_train_steps) - 1


def unconditional(level: Level) -> Array:
  """0: the network is told nothing of the level."""
  return jnp.zeros_like(level.sigma)


CONDITIONINGS: dict[str, Callable[..., Array]] = {
  "log_sigma": log_sigma,
  "none": unconditional,
  "sigma": noise_ratio,
  "signal_level": signal_level,
  "time": time,
  "time_index": time_index,
}
