"""Laws of points: against scikit-learn's draws, and against what defines each."""

import functools

import jax
import numpy as np
import pytest
import scipy.stats

from configs import ncsn_gmm
from scorelab.experiment.build import build
from scorelab.targets.circles import two_circles, two_circles_points
from scorelab.targets.points import (
  checkerboard,
  moons,
  pinwheel,
  spirals,
  swiss_roll,
)
from tests.paths import TESTDATA

SCIKIT = np.load(TESTDATA / "points.npz")
LAWS = {
  f.__name__: f()
  for f in (two_circles, two_circles_points, swiss_roll, moons, spirals, checkerboard, pinwheel)
}
N = 20_000


@functools.cache
def draws(name):
  return np.asarray(jax.jit(LAWS[name].sample, static_argnums=1)(jax.random.key(0), N))


@pytest.mark.parametrize("name", LAWS)
def test_scale_and_bounds_are_those_of_the_draws(name):
  """The std over all coordinates to 4 standard errors, at most 2 % here; nothing out of the box."""
  law, x = LAWS[name], draws(name)
  assert x.shape == (N, law.dim) and np.isfinite(x).all()
  np.testing.assert_allclose(law.scale, np.sqrt(x.var(0).mean()), 0.02)
  low, high = law.bounds
  # The box holds all but the noise beyond 4 std, of which 2 N draws have a few; it is no larger.
  assert ((x < low - 0.1 * (high - low)) | (x > high + 0.1 * (high - low))).sum() == 0
  assert ((x < low) | (x > high)).sum() <= 5
  assert (np.ptp(x, axis=0) > 0.75 * (high - low)).all()


@pytest.mark.e2e
def test_draws_are_fresh_inside_a_scan():
  """Each key gives other points, those that it gives outside."""
  keys = jax.random.split(jax.random.key(1), 3)

  @jax.jit
  def scanned(keys):
    return jax.lax.map(lambda key: [law.sample(key, 4) for law in LAWS.values()], keys)

  for (name, law), x in zip(LAWS.items(), scanned(keys), strict=True):
    assert (x[0] != x[1]).any(), name
    np.testing.assert_allclose(x[1], law.sample(keys[1], 4), 1e-5, 1e-6, err_msg=name)


@pytest.mark.parametrize(
  ("name", "law"), [("swiss_roll", swiss_roll(noise=1.0)), ("moons", moons())]
)
def test_draws_are_scikit_learns(name, law):
  """Kolmogorov and Smirnov's test along eight directions; a roll without noise has p = 5e-8."""
  x, known = np.asarray(law.sample(jax.random.key(3), N)), SCIKIT[name]
  for angle in np.pi * np.arange(8) / 8:
    direction = np.array([np.cos(angle), np.sin(angle)])
    assert scipy.stats.ks_2samp(x @ direction, known @ direction).pvalue > 1e-3
  np.testing.assert_allclose(law.scale, np.sqrt(known.var(0).mean()), 0.03)


@pytest.mark.parametrize(
  "law",
  [
    checkerboard(width=3.0),
    moons(noise=0.5),
    pinwheel(radial_std=0.3, tangential_std=0.5),
    spirals(noise=0.7),
    swiss_roll(noise=5.0),
    two_circles(noise=0.3),
  ],
  ids=["checkerboard", "moons", "pinwheel", "spirals", "swiss_roll", "two_circles"],
)
def test_the_scale_counts_each_noise(law):
  """Noise so large that each term is over 5 %: within 4.5 standard errors of 200,000 draws."""
  x = np.asarray(jax.jit(law.sample, static_argnums=1)(jax.random.key(5), 200_000), float)
  squares = ((x - x.mean(0)) ** 2).mean(1)
  error = squares.std() / len(x) ** 0.5 / (2 * law.scale)
  assert abs(squares.mean() ** 0.5 - law.scale) < 4.5 * error < 0.01


class TestDefinitions:
  def test_two_circles(self):
    x = draws("two_circles")
    centres = 0.7 * np.sign(x.sum(1, keepdims=True))
    np.testing.assert_allclose(np.hypot(*(x - centres).T), 0.5, 1e-5)
    assert abs((x.sum(1) > 0).mean() - 0.5) < 4 * 0.5 / N**0.5
    np.testing.assert_allclose(LAWS["two_circles"].scale, (0.49 + 0.125) ** 0.5, 1e-5)

  def test_two_circles_points_by_a_config(self):
    config = ncsn_gmm.get_config("fast")
    config.target.update(name="two_circles_points", num_points=4, offset=1.0)
    config.evaluation.metrics = ("energy_distance",)  # points have no modes of any width
    target = build(config).target
    assert target.points.shape == (8, 2)
    np.testing.assert_allclose(target.scale, (1 + 0.125) ** 0.5, 1e-5)

  def test_checkerboard(self):
    """Eight squares of one colour, with as many points each; uniform along either axis."""
    x = draws("checkerboard")
    column, row = np.floor(x / 2).astype(int).T
    assert len(set((column + row) % 2)) == 1
    counts = np.unique(column * 10 + row, return_counts=True)[1]
    assert len(counts) == 8 and scipy.stats.chisquare(counts).pvalue > 1e-3
    for axis in x.T:
      assert scipy.stats.kstest(axis, "uniform", (-4, 8)).pvalue > 1e-3

  def test_pinwheel(self):
    """The norm is that of twice a Gaussian about (1, 0); a fifth of a turn changes nothing."""
    x = draws("pinwheel")
    known = np.random.default_rng(0).normal([1, 0], [0.3, 0.1], (N, 2))
    assert scipy.stats.ks_2samp(np.hypot(*x.T), 2 * np.hypot(*known.T)).pvalue > 1e-3
    turns = np.exp(2j * np.pi * np.arange(5) / 5)
    z = x[:, 0] + 1j * x[:, 1]
    for turn in turns[1:]:
      assert scipy.stats.ks_2samp(z.real, (z[::-1] * turn).real).pvalue > 1e-3

  @pytest.mark.e2e
  def test_spirals(self):
    """Without noise the radius is a third of the angle, up to 3 pi; two arms in equal parts."""
    x = np.asarray(spirals(noise=0.0).sample(jax.random.key(0), 4000))
    radius = np.hypot(*x.T)
    angle = 3 * radius
    arms = np.stack([-np.cos(angle), np.sin(angle)], -1)
    side = (x * arms).sum(1) / radius
    np.testing.assert_allclose(np.abs(side), 1, 1e-4)
    assert abs((side > 0).mean() - 0.5) < 4 * 0.5 / 4000**0.5
    assert scipy.stats.kstest((angle / 3 / np.pi) ** 2, "uniform").pvalue > 1e-3
