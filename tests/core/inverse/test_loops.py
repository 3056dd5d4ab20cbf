"""Samplers of posteriors without particles: published loops with recorded noise, and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.inverse import (
  POSTERIOR_SAMPLERS,
  Mask,
  Observation,
  daps,
  ddrm,
  diffpir,
  dps_steps,
  pnp_dm,
  repaint,
)
from scorelab.samplers import RecordedNoise
from scorelab.schedules import VarianceExploding, VariancePreserving, karras
from scorelab.targets import GaussianMixture, grid25


def observation(noise_std=0.3, d=4, m=2):
  rng = np.random.default_rng(1)
  return Observation(rng.normal(size=(m, d)), 3 * rng.normal(size=m), noise_std)


def start(grid, shape=(5, 4)):
  return grid.prior(jax.random.key(0), shape)


def noise(*shape, seed=2):
  return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.e2e
@pytest.mark.parametrize("eta, eta_seen, noise_std", [(0.85, 1.0, 0.3), (0.5, 0.6, 2.0)])
def test_ddrm_is_the_authors_loop(eta, eta_seen, noise_std, x64):
  """The loop of github.com/bahjat-kawar/ddrm in NumPy, on a variance-preserving grid."""
  target, seen, grid = grid25(4), observation(noise_std), karras(VariancePreserving(), 6)
  z = noise(6, 5, 4)
  x_start = start(grid)
  recorded = RecordedNoise(jnp.asarray(z))
  found = ddrm(recorded, target.predict, x_start, grid, seen, eta=eta, eta_seen=eta_seen).x

  u, s, vt = np.linalg.svd(np.asarray(seen.matrix))
  y = np.asarray(seen.y) @ u / s
  ratio = np.asarray(grid.levels.sigma / grid.levels.alpha)
  unit = np.asarray(x_start) @ vt.T
  x = ratio[0] * unit
  early = s * ratio[0] > noise_std
  remaining = np.sqrt(ratio[0] ** 2 - (noise_std / s) ** 2)
  x[:, :2] = np.where(early, y + remaining * unit[:, :2], x[:, :2])
  for i in range(6):
    level = grid[i]
    pred = target.predict(level.alpha * jnp.asarray(x @ vt), level)
    x0, et = np.asarray(pred.x0) @ vt.T, np.asarray(pred.noise) @ vt.T
    r = ratio[i + 1]
    std_c, kept_c = r * eta, r * np.sqrt(1 - eta**2)
    new = x0 + kept_c * et + std_c * z[i]
    for j in range(2):
      if s[j] * r < noise_std:
        new[:, j] = x0[:, j] + kept_c * (y[j] - x0[:, j]) * s[j] / noise_std + std_c * z[i][:, j]
      else:
        std = np.sqrt(r**2 - (noise_std / s[j] * eta_seen) ** 2)
        new[:, j] = y[j] * eta_seen + (1 - eta_seen) * x0[:, j] + std * z[i][:, j]
    x = new
  np.testing.assert_allclose(found, x @ vt, atol=1e-6)


@pytest.mark.e2e
def test_diffpir_is_the_authors_loop(x64):
  """Eqs. 13 to 15 of the paper with matrices, as in its algorithm 1."""
  target, seen, grid = grid25(4), observation(), karras(VariancePreserving(), 5)
  z, x = noise(5, 5, 4), start(grid)
  found = diffpir(
    RecordedNoise(jnp.asarray(z)), target.predict, x, grid, seen, trust=3.0, renewed=0.4
  )
  a, y = np.asarray(seen.matrix), np.asarray(seen.y)
  for i in range(5):
    now, nxt = grid[i], grid[i + 1]
    x0 = np.asarray(target.predict(x, now).x0)
    rho = 3.0 * 0.3**2 * (now.alpha / now.sigma) ** 2
    x0 = np.linalg.solve(a.T @ a + rho * np.eye(4), (a.T @ y)[:, None] + rho * x0.T).T
    eps = (x - now.alpha * x0) / now.sigma
    x = nxt.alpha * x0 + nxt.sigma * (np.sqrt(0.6) * eps + np.sqrt(0.4) * z[i])
  np.testing.assert_allclose(found.x, x, atol=1e-6)
  assert found.nfe == 5 and found.gradients == 0


@pytest.mark.e2e
def test_dps_steps_are_the_papers(x64):
  """Algorithm 1 with the gradient of the norm by finite differences."""
  target, seen, grid = grid25(4), observation(), karras(VariancePreserving(), 3)
  z, x = noise(3, 1, 4), start(grid, (1, 4))
  found = dps_steps(RecordedNoise(jnp.asarray(z)), target.predict, x, grid, seen, step_size=0.7)
  a, y = np.asarray(seen.matrix), np.asarray(seen.y)

  def distance(x, level):
    return float(jnp.linalg.norm(y - a @ target.predict(x, level).x0[0]))

  for i in range(3):
    now, nxt = grid[i], grid[i + 1]
    step = 1e-5 * np.eye(4)[:, None]
    slope = np.array([distance(x + e, now) - distance(x - e, now) for e in step]) / 2e-5
    at, ratio = now.alpha / nxt.alpha, (nxt.sigma / now.sigma) ** 2
    beta = now.sigma**2 - at**2 * nxt.sigma**2
    mean = at * ratio * x + nxt.alpha * beta / now.sigma**2 * target.predict(x, now).x0
    x = mean + jnp.sqrt(beta * ratio) * z[i] - 0.7 * slope
  np.testing.assert_allclose(found.x, x, atol=1e-5)
  assert found.nfe == found.gradients == 3


@pytest.mark.e2e
def test_repaint_of_a_mask_is_the_papers(x64):
  """Seen pixels are those of a noised y, the rest ancestral; the repeats are noised back."""
  keep = np.array([True, False, True, False])
  y, target, grid = jnp.array([3.0, -5.0]), grid25(4), karras(VariancePreserving(), 3)
  seen, z, x = Observation(Mask(keep), y, 0.0), noise(3, 2, 3, 5, 4), start(grid)

  class Sources(RecordedNoise):
    def fork(self, number):
      return tuple(RecordedNoise(self.draws[i : i + 1]) for i in range(number))

    def split(self, shape):
      return Sources(self.draws.reshape(shape, -1, *z.shape[3:]))

  found = repaint(
    Sources(jnp.asarray(z.reshape(-1, 5, 4))), target.predict, x, grid, seen, repeats=2
  )
  for i in range(3):
    now, nxt = grid[i], grid[i + 1]
    at, ratio = now.alpha / nxt.alpha, (nxt.sigma / now.sigma) ** 2
    beta = now.sigma**2 - at**2 * nxt.sigma**2
    for u in range(2):
      stepping, seeing, back = z[i, u]
      mean = at * ratio * x + nxt.alpha * beta / now.sigma**2 * target.predict(x, now).x0
      unknown = mean + jnp.sqrt(beta * ratio) * stepping
      known = nxt.alpha * jnp.array([3.0, 0, -5.0, 0]) + nxt.sigma * seeing
      clean = jnp.where(keep, known, unknown)
      x = clean if u == 1 else at * clean + jnp.sqrt(beta) * back
  np.testing.assert_allclose(found.x, x, atol=1e-6)
  np.testing.assert_allclose(found.x[:, keep], jnp.broadcast_to(y, (5, 2)), atol=1e-9)
  assert found.nfe == 6


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["pnp_dm", "daps"])
def test_decoupled_samplers_on_a_gaussian(name):
  """Little noise at the end: the exact posterior's moments, to 0.06 by split Gibbs.

  DAPS draws x_0 about the end of the flow, not given x_t: its limit is another law.
  """
  target = GaussianMixture([1.0], [[0.5, -0.5]], [[[1.0, 0.3], [0.3, 0.5]]])
  seen, grid = Observation([[2.0, 0.0]], [1.0], 0.8), karras(VarianceExploding(sigma_max=10.0), 40)
  x = start(grid, (4000, 2))
  run = {
    "pnp_dm": lambda: pnp_dm(jax.random.key(1), target.predict, x, grid, seen, inner_steps=20),
    "daps": lambda: daps(jax.random.key(1), target.predict, x, grid, seen, langevin_steps=0),
  }[name]
  samples, posterior = jax.jit(run)(), target.given(seen)
  tolerance = 0.06 if name == "pnp_dm" else 0.25
  np.testing.assert_allclose(samples.x.mean(0), posterior.mean, atol=tolerance)
  np.testing.assert_allclose(samples.x.std(0), posterior.variance**0.5, atol=tolerance)
  assert samples.nfe == {"pnp_dm": 800, "daps": 200}[name]


@pytest.mark.e2e
def test_langevin_steps_reach_their_limit():
  """DAPS with 300 small Langevin steps, and with draws from their limit: moments to 0.06."""
  target, seen = GaussianMixture([1.0], [[0.5, -0.5]], [1.0]), Observation([[2.0, 0.0]], [1.0], 1.0)
  grid = karras(VarianceExploding(sigma_max=5.0), 10)
  x = start(grid, (4000, 2))

  def moments(**options):
    run = jax.jit(lambda: daps(jax.random.key(1), target.predict, x, grid, seen, **options))
    found = run().x
    return np.concatenate([found.mean(0), found.std(0)])

  chains = moments(langevin_steps=300, step_share=0.05)
  np.testing.assert_allclose(chains, moments(langevin_steps=0), atol=0.06)


@pytest.mark.e2e
@pytest.mark.parametrize("name", POSTERIOR_SAMPLERS)
def test_every_sampler_of_posteriors(name):
  """Finite, of x's shape, with a path to the samples; it takes images and their operators."""
  keep = np.zeros((2, 2, 1), bool)
  keep[0] = True
  flat = grid25(4)

  def predict(x, level):
    pred = flat.predict(x.reshape(*x.shape[:-3], 4), level)
    views = {name: view.reshape(x.shape) for name, view in pred.views.items()}
    return type(pred).of(x, level, pred.kind, **views)

  seen = Observation(Mask(keep), jnp.array([3.0, -5.0]), 0.5)
  grid = karras(VarianceExploding(sigma_max=20.0), 6)
  x = start(grid, (7, 2, 2, 1))
  run = POSTERIOR_SAMPLERS[name]
  samples = jax.jit(lambda: run(jax.random.key(1), predict, x, grid, seen))()
  assert samples.x.shape == x.shape and samples.path.shape == (6, *x.shape)
  assert np.isfinite(samples.x).all() and samples.nfe >= 6
  assert samples.nfe % (6 * samples.particles) == 0


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["ddrm", "diffpir", "repaint", "daps", "pnp_dm", "mcgdiff"])
def test_an_invertible_a_without_noise_gives_its_point(name):
  """To the last noisy level, 0.002 here, or less; Langevin steps need noise."""
  a, x0 = np.diag([1.0, -0.5, 2.0, 0.8]), np.array([1.0, -2.0, 3.0, 0.5])
  seen, grid = Observation(a, a @ x0, 0.0), karras(VarianceExploding(sigma_max=20.0), 20)
  options = {"langevin_steps": 0} if name == "daps" else {}
  run = POSTERIOR_SAMPLERS[name]
  found = jax.jit(
    lambda: run(jax.random.key(1), grid25(4).predict, start(grid), grid, seen, **options).x
  )()
  np.testing.assert_allclose(found, np.tile(x0, (5, 1)), atol=0.01)


def test_noise_is_asked_for():
  grid = karras(VarianceExploding(), 3)
  for name, user in (("tds", "tds"), ("fps_smc", "fps_smc"), ("daps", "daps with langevin_steps")):
    with pytest.raises(ValueError, match=f"noise_std = 0 must be > 0 for {user}"):
      POSTERIOR_SAMPLERS[name](
        jax.random.key(0), grid25(4).predict, start(grid), grid, observation(0.0)
      )
