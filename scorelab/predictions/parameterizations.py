"""Parameterizations: the view and the scale of a network's output.

References:
  Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    NeurIPS 2022 (arXiv 2206.00364), table 1: preconditioning.
  Salimans and Ho, "Should EBMs model the energy or the score?", ICLR 2021 workshop on energy-based
    models; Du et al., "Reduce, Reuse, Recycle", ICML 2023 (arXiv 2302.11552): energies.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from scorelab.predictions.conditioning import CONDITIONINGS
from scorelab.predictions.views import TO_NOISE, TO_X0, Prediction
from scorelab.ranges import Above, AtLeast
from scorelab.schedules import Level, Schedule, ratio_ends, require_time
from scorelab.typing import Array, Key, Params, Predict
from scorelab.validation import Registry, checked


@checked(kind=TO_X0, conditioning=CONDITIONINGS)
@dataclasses.dataclass(frozen=True)
class Parameterization:
  """Reads a network's output as the view `kind` itself.

  Attributes:
    apply: a Flax module's apply, `(variables, x [b, *event], c [b], ...) -> [b, *event]`.
    conditioning: maps the level to the network's input, elementwise: one of CONDITIONINGS.
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
    """Scales x to the network's input; the level's fields broadcast with x."""
    del level
    return x

  def read(self, x: Array, level: Level, output: Array) -> Prediction:
    """Converts an output of x's shape to a prediction."""
    return Prediction.of(x, level, self.kind, **{self.kind: output})

  def read_variance(self, x: Array, level: Level, v: Array) -> Array:
    """Converts the second half of an output, v of x's shape, to a variance_fraction."""
    del x, level
    return (v + 1) / 2

  def bind(
    self, params: Params, label: Array | None = None, rngs: dict[str, Key] | None = None
  ) -> Predict:
    """Returns the predict function of these parameters. Call it inside the jitted function.

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
    """Integral of the score that `read` makes of the output -grad E(u), of the batch shape.

    At one level u = a x, and the score that is read is affine in the output F:

        p x + r F(a x) = grad_x [ p |x|^2 / 2 - (r / a) E(a x) ]
    """
    zero = jnp.zeros_like(minus_energy)
    one = zero + 1
    a = self.scale_input(one, level)
    p, r = self.read(one, level, zero).score, self.read(zero, level, one).score
    squares = jnp.sum(x**2, axis=tuple(range(minus_energy.ndim, x.ndim)))
    return p * squares / 2 + r / a * minus_energy


@checked(kind=TO_X0, conditioning=CONDITIONINGS)
@dataclasses.dataclass(frozen=True)
class EDM(Parameterization):
  """EDM's preconditioning, for any process: the network F has inputs and outputs of unit variance.

      x0 = c_skip x + c_out F(c_in x)             with V = sigma^2 + alpha^2 s^2
      c_in = V^-1/2    c_skip = alpha s^2 / V     c_out = sigma s V^-1/2

  Karras et al. 2022, table 1 and appendix B.6, where alpha = 1.

  Attributes:
    data_std: s, the std of the data over all coordinates, in the data's units.
  """

  kind: str = "x0"
  data_std: Annotated[float, Above(0)] = 1.0

  def scale_input(self, x: Array, level: Level) -> Array:
    return x / _marginal_std(level, self.data_std)

  def read(self, x: Array, level: Level, output: Array) -> Prediction:
    at, s = level.like(x), self.data_std
    total = at.sigma**2 + (at.alpha * s) ** 2
    x0 = (at.alpha * s**2 / total) * x + (at.sigma * s / jnp.sqrt(total)) * output
    # (x - alpha x0) / sigma worked out by hand: at little noise the difference would cancel.
    noise = (at.sigma / total) * x - (at.alpha * s / jnp.sqrt(total)) * output
    return Prediction.of(x, level, "x0", x0=x0, noise=noise)


@checked(kind=TO_X0, conditioning=CONDITIONINGS)
@dataclasses.dataclass(frozen=True)
class Consistency(EDM):
  """The end of the probability flow through x, at the schedule's least noise.

      f(x) = c_skip x / alpha + c_out F(c_in x)      with r = sigma / alpha
      c_skip = s^2 / ((r - r_min)^2 + s^2)           c_out = s (r - r_min) / sqrt(r^2 + s^2)

  At r_min it is x / alpha whatever the network says, at pure noise s F(c_in x). No posterior mean:
  it has an x0, but neither noise nor score. Song et al., "Consistency Models", ICML 2023
  (arXiv 2303.01469), appendix C.

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
    noisy = at.alpha > 0
    alpha = jnp.where(noisy, at.alpha, 1)
    ratio = at.sigma / alpha
    past = ratio - ratio_ends(self.schedule)[0]
    skip, out = s**2 / (past**2 + s**2), s * past / jnp.sqrt(ratio**2 + s**2)
    end = jnp.where(noisy, skip * x / alpha + out * output, s * output)
    return Prediction.of(x, level, self.kind, consistency=end)


@checked(kind=TO_X0, conditioning=CONDITIONINGS)
@dataclasses.dataclass(frozen=True)
class ScaledScore(Parameterization):
  """The score of data scaled to unit std, for any process: defined at the data too, sigma = 0.

      s(x) = F(x / c) / c      with c = sqrt(sigma^2 + alpha^2 data_std^2)

  Attributes:
    data_std: the std of the data over all coordinates, in the data's units.
  """

  kind: str = "score"
  data_std: Annotated[float, Above(0)] = 1.0

  def scale_input(self, x: Array, level: Level) -> Array:
    return x / _marginal_std(level, self.data_std)

  def read(self, x: Array, level: Level, output: Array) -> Prediction:
    return Prediction.of(
      x, level, "score", score=output / _marginal_std(level.like(x), self.data_std)
    )


@checked(kind=TO_X0, conditioning=CONDITIONINGS)
@dataclasses.dataclass(frozen=True)
class ReverseStep(Parameterization):
  """Reverse step of a discrete chain: the network gives the law N(m, V) of x_s given x_t.

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
    num_train_steps: number of steps T.
    relative: the second form; what is left to learn is then of order 1 at every step.

  Raises:
    ValueError: without a schedule, or without a learned variance.
  """

  kind: str = "x0"
  schedule: Schedule | None = None
  num_train_steps: Annotated[int, AtLeast(1)] = 1000
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
  """The exact prediction in a network's place; ignores the parameters.

  Attributes:
    predict: the exact predict function.
    of_class: `(x, level, label) -> Prediction`, the exact one given a label of x's batch shape, if
      known.
  """

  predict: Predict
  of_class: Callable[[Array, Level, Array], Prediction] | None = None

  def bind(
    self, params: Params, label: Array | None = None, rngs: dict[str, Key] | None = None
  ) -> Predict:
    """Returns the predict function, for a class if there is a label; nothing is learned."""
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


PARAMETERIZATIONS: dict[str, Callable[..., Parameterization]] = Registry("parameterization") | {
  **{kind: functools.partial(Parameterization, kind=kind) for kind in TO_NOISE},
  "consistency": Consistency,
  "edm": EDM,
  "reverse_step": ReverseStep,
  "scaled_score": ScaledScore,
}
