"""Shapes and dtypes that public functions declare, checked by beartype as they are called.

Every public function of schedules, targets, likelihoods, samplers, losses and metrics is called
once; one that is new fails the test of its package until it is called here. Where no numbers are
needed the call is traced only: nothing is compiled.
"""

import functools
import inspect
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from scorelab import likelihood, losses, metrics, samplers, schedules, targets
from scorelab.inverse import Observation
from scorelab.predictions import PARAMETERIZATIONS, Prediction, log_sigma
from scorelab.samplers.langevin import MalaState
from scorelab.samplers.underdamped import KineticState
from scorelab.schedules import Grid, Level
from scorelab.targets import data_set, points
from scorelab.typing import Context, Floats, Samples

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
NAMES = {"Grid": Grid, "Level": Level, "Prediction": Prediction, "Observation": Observation}


def declared(function):
  """The function with its annotations resolved and checked at every call."""
  own = inspect.unwrap(function)
  names = {**own.__globals__, **NAMES}
  function.__annotations__ = own.__annotations__ = typing.get_type_hints(own, names)
  return jaxtyped(function, typechecker=beartype)


def public(owner):
  """A package's functions, or methods and properties of a class, by name."""
  if inspect.isclass(owner):
    return {k: v for k, v in vars(owner).items() if not k.startswith("_") and is_code(v)}
  return {member.__name__: member for member in public_members(owner) if inspect.isfunction(member)}


def public_members(package):
  """Functions and classes of a package's files that it passes on."""
  return [
    member
    for name, member in vars(package).items()
    if not name.startswith("_")
    and getattr(member, "__module__", "").startswith(f"{package.__name__}.")
  ]


def is_code(member):
  return inspect.isfunction(member) or isinstance(member, property)


class Watched:
  """Checks what classes declare, and records which of it was called."""

  def __init__(self, monkeypatch, classes):
    self.called, self.all = set(), set()
    for owner in classes:
      for name, member in public(owner).items():
        label = f"{owner.__name__}.{name}"
        self.all.add(label)
        wrapped = (
          property(self.noting(label, declared(member.fget)))
          if isinstance(member, property)
          else self.noting(label, declared(member))
        )
        monkeypatch.setattr(owner, name, wrapped)

  def noting(self, label, function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
      self.called.add(label)
      return function(*args, **kwargs)

    return wrapper

  def function(self, owner, name):
    return self.noting(name, declared(getattr(owner, name)))


def classes_of(module):
  """Public classes of a package and their own bases in it."""
  return {
    base
    for cls in public_members(module)
    if inspect.isclass(cls)
    for base in cls.__mro__
    if base.__module__.startswith(module.__name__)
  }


@pytest.mark.e2e
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_schedules(monkeypatch, shape):
  watched = Watched(monkeypatch, classes_of(schedules))
  t = jnp.full(shape, 0.4)
  table = schedules.Discrete(schedules.linear_betas(num_levels=5), zero_terminal_snr=True)
  own = schedules.Shifted(type("Own", (schedules.Schedule,), dict(
    alpha=lambda self, t: 1 - t, sigma=lambda self, t: t))(), 0.3)  # fmt: skip
  made = [build() for build in schedules.SCHEDULES.values()]

  def call_all(t, schedule):
    level = schedule.at(t)
    schedule.variance(t)
    assert schedule.at_log_snr(schedule.log_snr(t)).sigma.shape == shape
    assert schedule.at_ratio(jnp.ones(shape)).like(
      jnp.ones((*shape, 2))
    ).alpha.ndim == t.ndim + bool(shape)
    schedule.along(level.log_snr)
    schedule.rates(t), schedule.drift(t), schedule.diffusion_squared(t), schedule.prior_std(level)
    schedule.velocity(schedule.at(0.5), jnp.ones((*shape, 2)), jnp.ones((*shape, 2)))

  def call_grid(schedule):
    grid = schedule.grid(jnp.array([0.9, 0.5]))
    assert grid.num_steps == len(grid.pairs[0].t) == 1 + len(grid.noisy_pairs[0].t)
    grid.prior(KEY, (4, 2)), grid.refined(2)

  for schedule in [table, own, *made[: 11 if shape == () else 2]]:
    jax.eval_shape(functools.partial(call_all, schedule=schedule), t)
    jax.eval_shape(functools.partial(call_grid, schedule))
    assert schedule.t_min <= schedule.t_max and isinstance(schedule.timed, bool)
    assert schedule.has_time == (schedule is not own) and (schedule.process or schedule is own)
  Grid.from_arrays([0.5, 1.0], [0.5, 0.0], process="ve")
  for name, build in schedules.GRIDS.items():
    function = watched.function(schedules, build.__name__)
    options = {"log_snrs": (-1.0, 0.0, 1.0, 2.0)} if name == "given" else {}
    jax.eval_shape(lambda s, f=function, o=options: f(s, 4, **o), made[0])
  x, level = jnp.ones((4, 2)), made[0].at(0.5)
  call = functools.partial(watched.function, schedules)
  call("ratio_ends")(made[0]), call("safe_sqrt")(t), call("require_time")(level)
  call("rescaled")("vp", t, t)
  call("reverse_drift")(made[0], level, x, x)
  call("forward_path")(KEY, made[0], x, jnp.array([0.1, 0.5, 0.9]))
  for betas in schedules.BETAS.values():
    call(betas.__name__)(), call("discrete")(betas)
  if shape == ():
    missing = (watched.all | set(public(schedules))) - watched.called
    assert missing == {"Schedule.alpha"}  # abstract


@pytest.mark.e2e
def test_targets(monkeypatch):
  watched = Watched(monkeypatch, classes_of(targets))
  level, label = schedules.VarianceExploding().at(0.5), jnp.array([0, 2, 1])
  full = np.eye(2)[None] * np.array([1.0, 2.0])[:, None, None]
  mixtures = [targets.nine_modes(), targets.GaussianMixture([1, 2], np.eye(2), full)]

  seen = Observation(jnp.ones((1, 2)), jnp.ones(1), 0.1)

  def call_all(law):
    for shape in ((2,), (3, 2), (4, 3, 2)):
      x = jnp.ones(shape)
      law.predict(x, level), law.predict_of_class(x, level, jnp.zeros((), int))
      law.log_prob(x), law.score(x), law.responsibilities(x), law.log_class_prob(x, level)
      law.posterior_mean(x, level), law.sample_posterior(KEY, x, level)
    law.posterior(jnp.ones(2), level), law.of_class(jnp.zeros((), int)), law.perturbed(0.5, 0.1)
    law.given(seen), law.log_evidence(seen)
    law.sample_with_components(KEY, 3), law.covariance, law.num_classes
    assert law.weights.shape == law.means.shape[:1] and law.covariances.shape[0] == len(law.means)
    along = law.marginal(jnp.eye(2))
    along.cdf(jnp.ones((3, 2))), along.partial_mean(jnp.ones(2)), along.quantile(jnp.array([0.3]))
    along.shifted(along.mean), along.second_moment, along.has_atoms

  for law in mixtures:
    jax.eval_shape(functools.partial(call_all, law))
  made = [
    *mixtures, targets.two_circles(noise=0.1), targets.two_circles_points(), targets.moons(),
    targets.digits(dequantise=True), targets.patches(dequantise=True, side=4),
    data_set.split(np.random.default_rng(0).normal(size=(20, 3))),
  ]  # fmt: skip
  for target in made:
    x = target.sample(KEY, 3)
    assert x.shape == (3, *target.event_shape) and x[0].size == target.dim
    assert float(target.scale) > 0
    for method, arguments in {
      "predict": (x, level), "distance": (x,), "component": (x,), "dequantise": (KEY, x),
      "sample_with_labels": (KEY, 3), "sample_of_class": (KEY, label),
    }.items():  # fmt: skip
      if hasattr(target, method):
        getattr(target, method)(*arguments)
    for field in ("bounds", "splits", "weights", "variance", "num_classes", "bin_width", "mean"):
      getattr(target, field, None)
  declared(points.roll)(jnp.array([0.1, 0.2]))
  declared(data_set.index_of_class)(KEY, np.array([0, 1, 1]), jnp.array([0, 1]))
  assert not watched.all - watched.called


@pytest.mark.e2e
def test_likelihoods(monkeypatch):
  target, grid = targets.nine_modes(), schedules.karras(schedules.VarianceExploding(), 4)
  for name in ("log_likelihood", "adaptive_log_likelihood"):
    function = functools.partial(declared(getattr(likelihood, name)), KEY, target.predict)
    found = jax.eval_shape(function, jnp.ones((3, 2)), grid)
    assert found.log_prob.shape == (3,) and found.z.shape == (3, 2)
    with pytest.raises(TypeCheckError):
      jax.eval_shape(function, jnp.ones(()), grid)


def fields(result, start=None):
  """Checks the fields of a NamedTuple together, and that the shape is the start's."""
  names = {**vars(sys.modules[type(result).__module__]), **NAMES}
  hints = typing.get_type_hints(type(result), names)
  scope = {}
  exec(f"def check({', '.join(hints)}, start): pass", scope)
  scope["check"].__annotations__ = hints | ({} if start is None else {"start": Floats})
  jaxtyped(scope["check"], typechecker=beartype)(*result, start)
  return result


def gaussian(x, level, kind="x0"):
  """The truth of N(0, I), for points of any shape; of consistency, the end of its flow."""
  x0 = level.alpha * x / (level.alpha**2 + level.sigma**2) ** (1 if kind == "x0" else 0.5)
  return Prediction.of(x, level, kind, **{kind: x0})


@pytest.mark.e2e
@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 4, 1)])
def test_samplers(shape):
  grid = schedules.karras(schedules.VarianceExploding(), 4)
  called = set()

  def call(name, *args, **options):
    called.add(name)
    return declared(getattr(samplers, name))(*args, **options)

  def everything(key, x):
    names = {sampler.__name__ for sampler in samplers.SAMPLERS.values()}
    for name in (*sorted(names), "adaptive_ode"):
      kind = "consistency" if name == "consistency" else "x0"
      fields(call(name, key, functools.partial(gaussian, kind=kind), x, grid), x)
    steps = {"step_size": 0.1, "num_steps": 6, "burn_in": 2, "thin": 2}
    log_prob = lambda x: -jnp.sum(x**2, -1) / 2  # noqa: E731
    fields(call("ula", key, jnp.negative, x, **steps), x)
    fields(call("mala", key, jnp.negative, log_prob, x, **steps), x)
    fields(call("underdamped_langevin", key, jnp.negative, x, **steps), x)
    now, nxt, z = grid[0], grid[1], jnp.ones_like(x)
    pred = gaussian(x, now)
    call("ancestral_step", pred, now, nxt, z), call("renoise_step", pred, now, nxt, z)
    call("consistency_step", pred, nxt, z, jnp.ones(())), call("ddim_step", pred, now, nxt, z, 0.5)
    call("renewing_step", pred, nxt, z, *call("noise_shares", now, nxt, 0.5))
    call("churned", x, now, z, 0.1, schedule=grid.schedule)
    call("slope_correction", pred, z, now, nxt), call("rk4_step", gaussian, x, now, now, nxt)
    call("corrector_step", pred, z, 0.1, 1), call("ula_step", x, -x, 0.1, z)
    state = MalaState(x, -x, log_prob(x))
    call("mala_step", state, jnp.negative, log_prob, 0.1, z, jnp.ones(shape[:-1]))
    call("baoab_step", KineticState(x, z, -x), jnp.negative, 0.1, 1.0, z)
    call("as_noise", key), call("ncsnv2_step_size", grid.levels.sigma[:-1], 5)
    assert call("ddim_inference", key, x, grid).shape == (5, *shape)

  jax.eval_shape(everything, KEY, jnp.ones(shape))
  path = np.random.default_rng(0).normal(size=(8, 2, *shape))
  for name in ("effective_sample_size", "split_rhat"):
    assert call(name, path).shape == call(name, jnp.asarray(path)).shape == shape
  assert set(public(samplers)) - called == set()


@pytest.mark.e2e
def test_losses():
  schedule, batch = schedules.VariancePreserving(), {"x": jnp.ones((4, 2))}
  context = Context(jnp.zeros((), int), {})

  def everything(key, u):
    for name, make in losses.LOSSES.items():
      kind = "consistency" if name == "consistency" else "noise"
      learned = {"learned_variance": True} if name == "hybrid" else {}
      if kind == "consistency":
        learned = {"schedule": schedule}

      def apply(variables, x, c, rngs=None, width=4 if name == "hybrid" else 2):
        return variables["params"] * jnp.ones((len(x), width))

      loss = declared(make)(PARAMETERIZATIONS[kind](apply, log_sigma, **learned), schedule)
      declared(loss)(jnp.ones(()), key, batch, context)
    for levels in losses.LEVELS.values():
      declared(levels)(schedule, u)
    for uniforms in losses.UNIFORMS.values():
      declared(uniforms)(key, 4)
    level = schedule.at(u)
    for name, weight in (losses.WEIGHTINGS | losses.SCORE_WEIGHTINGS).items():
      declared(weight)(level, **({"schedule": schedule} if name == "likelihood" else {}))

  jax.eval_shape(everything, KEY, jnp.full(4, 0.4))
  assert public(losses).keys() == {make.__name__ for make in losses.LOSSES.values()}


@pytest.mark.e2e
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["NumPy", "JAX"])
def test_metrics(make):
  nine, circles = targets.nine_modes(), targets.two_circles()
  drawn = [make(np.asarray(nine.sample(jax.random.key(seed), 40))) for seed in (0, 1)]
  x, y = drawn[0], drawn[1][:30]
  seen = Observation(np.eye(2), np.zeros(2), 1.0)
  called = set()

  def call(name, *args, **options):
    called.add(name)
    return declared(getattr(metrics, name))(*args, **options)

  needs_classes = metrics.CLASS_METRICS | metrics.LABEL_METRICS
  for name in metrics.METRICS.keys() - needs_classes.keys():
    if name in metrics.SUPPORT_METRICS:
      against = [circles, metrics.Reference(target=circles)]
    elif name in metrics.MODE_METRICS:
      against = [nine, metrics.Reference(y, nine)]
    elif name == "measurement_misfit":
      against = [metrics.Reference(y, nine, observation=seen)]
    else:
      against = [y, metrics.Reference(y, nine)]
    for reference in against:
      assert isinstance(call(name, KEY, x, reference), float)
  call("mean_pairwise_distance", x, y), call("mode_weights", x, nine)
  levels = schedules.VarianceExploding().at(jnp.array([0.3, 0.6, 0.9]))

  def errors(key):
    fields(call("score_error", key, nine, nine.predict, levels, 4))
    fields(call("class_score_error", key, nine, lambda label: nine.predict, levels, 4))
    call("mode_score_error", key, nine, nine.predict, schedules.VarianceExploding().at(0.5), 4)
    fields(call("girsanov", key, nine, nine.predict, levels, jnp.ones(()), 4))

  jax.eval_shape(errors, KEY)
  of_classes = {*needs_classes, "class_probabilities", "features_need", "in_features"}
  asking = {"has_known_classes", "has_labels", "has_modes"}  # of a target
  assert set(public(metrics)) - called == of_classes | asking


@pytest.mark.parametrize(
  "call",
  [
    lambda: declared(schedules.rescaled)("vp", jnp.ones(2), jnp.ones(3)),
    lambda: declared(schedules.Schedule.velocity)(
      schedules.LinearFlow(), schedules.LinearFlow().at(0.5), jnp.ones((2, 3)), jnp.ones((3, 2))
    ),
    lambda: declared(targets.GaussianMixture.marginal)(targets.nine_modes(), jnp.ones(2)),
    lambda: declared(targets.GaussianMixture.log_prob)(targets.nine_modes(), jnp.ones(2, int)),
    lambda: declared(samplers.ula_step)(jnp.ones(2), jnp.ones(2), 0.1, jnp.ones((3, 2))),
    lambda: fields(Samples(jnp.ones(2), jnp.ones((5, 3)), 5)),
    lambda: declared(metrics.recall)(KEY, np.ones((9, 2)), np.ones((9, 3))),
    lambda: declared(metrics.recall)(KEY, np.ones((9, 2), int), np.ones((9, 2))),
  ],
  ids=[
    *("two shapes", "two events", "one direction", "whole numbers", "noise of another shape"),
    *("a path of another shape", "two point sets", "whole points"),
  ],
)
def test_wrong_shapes_are_refused(call):
  with pytest.raises(TypeCheckError):
    call()
