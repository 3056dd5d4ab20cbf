"""Shapes and dtypes that public functions declare, checked by beartype as they are called.

Every public function and method of schedules, targets and likelihoods is called once; one that is
new fails the last test of its package until it is called here.
"""

import functools
import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from scorelab import likelihood, schedules, targets
from scorelab.predictions import Prediction
from scorelab.schedules import Grid, Level
from scorelab.targets import data_set, points

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
NAMES = {"Grid": Grid, "Level": Level, "Prediction": Prediction}


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


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_schedules(monkeypatch, shape):
  watched = Watched(monkeypatch, classes_of(schedules))
  t = jnp.full(shape, 0.4)
  table = schedules.Discrete(schedules.linear_betas(num_levels=5), zero_terminal_snr=True)
  own = schedules.Shifted(type("Own", (schedules.Schedule,), dict(
    alpha=lambda self, t: 1 - t, sigma=lambda self, t: t))(), 0.3)  # fmt: skip
  made = [build() for build in schedules.SCHEDULES.values()]
  for schedule in [table, own, *made[: 11 if shape == () else 2]]:
    level = schedule.at(t)
    schedule.variance(t)
    assert schedule.at_log_snr(schedule.log_snr(t)).sigma.shape == shape
    assert schedule.at_ratio(jnp.ones(shape)).like(
      jnp.ones((*shape, 2))
    ).alpha.ndim == t.ndim + bool(shape)
    schedule.along(level.log_snr)
    schedule.rates(t), schedule.drift(t), schedule.diffusion_squared(t), schedule.prior_std(level)
    schedule.velocity(schedule.at(0.5), jnp.ones((*shape, 2)), jnp.ones((*shape, 2)))
    grid = schedule.grid(jnp.array([0.9, 0.5]))
    assert grid.num_steps == len(grid.pairs[0].t) == 1 + len(grid.noisy_pairs[0].t)
    grid.prior(KEY, (4, 2))
    assert schedule.t_min <= schedule.t_max and isinstance(schedule.timed, bool)
    assert schedule.has_time == (schedule is not own) and (schedule.process or schedule is own)
  Grid.from_arrays([0.5, 1.0], [0.5, 0.0], process="ve")
  for name, build in schedules.GRIDS.items():
    function = watched.function(schedules, build.__name__)
    function(made[0], 4, **({"log_snrs": (-1.0, 0.0, 1.0, 2.0)} if name == "given" else {}))
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


def test_targets(monkeypatch):
  watched = Watched(monkeypatch, classes_of(targets))
  level, label = schedules.VarianceExploding().at(0.5), jnp.array([0, 2, 1])
  full = np.eye(2)[None] * np.array([1.0, 2.0])[:, None, None]
  mixtures = [targets.nine_modes(), targets.GaussianMixture([1, 2], np.eye(2), full)]
  for law in mixtures:
    for shape in ((2,), (3, 2), (4, 3, 2)):
      x = jnp.ones(shape)
      law.predict(x, level), law.predict_of_class(x, level, jnp.zeros((), int))
      law.log_prob(x), law.score(x), law.responsibilities(x), law.log_class_prob(x, level)
      law.posterior_mean(x, level), law.sample_posterior(KEY, x, level)
    law.posterior(jnp.ones(2), level), law.given(jnp.zeros((), int)), law.perturbed(0.5, 0.1)
    law.sample_with_components(KEY, 3), law.covariance, law.num_classes
    assert law.weights.shape == law.means.shape[:1] and law.covariances.shape[0] == len(law.means)
    along = law.marginal(jnp.eye(2))
    along.cdf(jnp.ones((3, 2))), along.partial_mean(jnp.ones(2)), along.quantile(jnp.array([0.3]))
    along.shifted(along.mean), along.second_moment, along.has_atoms
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


def test_likelihoods(monkeypatch):
  target, grid = targets.nine_modes(), schedules.karras(schedules.VarianceExploding(), 4)
  for name in ("log_likelihood", "adaptive_log_likelihood"):
    found = declared(getattr(likelihood, name))(KEY, target.predict, jnp.ones((3, 2)), grid)
    assert found.log_prob.shape == (3,) and found.z.shape == (3, 2)
    with pytest.raises(TypeCheckError):
      declared(getattr(likelihood, name))(KEY, target.predict, jnp.ones(()), grid)


@pytest.mark.parametrize(
  "call",
  [
    lambda: declared(schedules.rescaled)("vp", jnp.ones(2), jnp.ones(3)),
    lambda: declared(schedules.Schedule.velocity)(
      schedules.LinearFlow(), schedules.LinearFlow().at(0.5), jnp.ones((2, 3)), jnp.ones((3, 2))
    ),
    lambda: declared(targets.GaussianMixture.marginal)(targets.nine_modes(), jnp.ones(2)),
    lambda: declared(targets.GaussianMixture.log_prob)(targets.nine_modes(), jnp.ones(2, int)),
  ],
  ids=["two shapes", "two events", "one direction", "whole numbers"],
)
def test_wrong_shapes_are_refused(call):
  with pytest.raises(TypeCheckError):
    call()
