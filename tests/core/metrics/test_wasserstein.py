import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy import integrate, optimize, stats

from scorelab.metrics import Reference, max_sliced_wasserstein, sliced_wasserstein, wasserstein
from scorelab.metrics.transport import project_and_sort, transport_cost
from scorelab.metrics.wasserstein import random_directions
from scorelab.targets.mixtures import GaussianMixture
from tests.paths import TESTDATA

ORACLE = np.load(TESTDATA / "extras_ot.npz")
KEY = jax.random.key(0)
SIZES = [(50, 50), (40, 200), (200, 40), (60, 35), (7, 1)]
POT = {
  sliced_wasserstein: ot.sliced.sliced_wasserstein_distance,
  max_sliced_wasserstein: ot.sliced.max_sliced_wasserstein_distance,
}


def _problem(n, m, d=3, seed=0):
  """Points x [n, d] and y [m, d], unit projections [d, 20], and positive weights of each."""
  rng = np.random.default_rng(seed)
  x, y = rng.normal(size=(n, d)), 2 * rng.normal(size=(m, d)) + 1
  projections = rng.normal(size=(d, 20))
  projections /= np.linalg.norm(projections, axis=0)
  weights = [w / w.sum() for w in (rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, m))]
  return x, y, projections, weights


@pytest.mark.parametrize("metric", POT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("weighted", ["", "x", "y", "xy"])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("n, m", SIZES)
def test_equals_pot(n, m, p, weighted, metric):
  x, y, projections, (wx, wy) = _problem(n, m)
  wx, wy = wx if "x" in weighted else None, wy if "y" in weighted else None
  expected = POT[metric](x, y, wx, wy, projections=projections, p=p)
  options = {"p": p, "projections": projections, "x_weights": wx, "y_weights": wy}
  np.testing.assert_allclose(metric(None, x, y, **options), expected, rtol=1e-12)
  x, y = x.astype(np.float32), y.astype(np.float32)
  np.testing.assert_allclose(metric(None, x, y, **options), expected, rtol=2e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_equals_stored_pot(p):
  a, b, projections = (ORACLE[f"ot/{name}"] for name in ("A", "B", "projections"))
  options = {"p": p, "projections": projections}
  for metric, name in [(sliced_wasserstein, "sliced"), (max_sliced_wasserstein, "max_sliced")]:
    np.testing.assert_allclose(metric(None, a, b, **options), ORACLE[f"ot/{name}_p{p}"], rtol=1e-12)


def test_equals_stored_pot_weighted_and_exact():
  a, b, projections, wa, wb = (ORACLE[f"ot/{k}"] for k in ("A", "B", "projections", "wA", "wB"))
  # POT takes weights that sum to 1; ours may be of any scale.
  value = max_sliced_wasserstein(
    None, a, b, projections=projections, x_weights=7 * wa, y_weights=wb
  )
  np.testing.assert_allclose(value, ORACLE["ot/max_sliced_weighted"], rtol=1e-12)
  np.testing.assert_allclose(wasserstein(None, a, b) ** 2, ORACLE["ot/emd2_sqeuclidean"], rtol=1e-9)
  w1 = wasserstein(None, a[:, 0], b[:, 0], p=1)
  np.testing.assert_allclose(w1, ORACLE["ot/w1_1d"], rtol=1e-9)


@pytest.mark.parametrize(
  "n, m, p, weighted", [(40, 200, 1, False), (60, 35, 2, False), (60, 35, 1, True)]
)
def test_jax_engine_equals_numpy(n, m, p, weighted):
  x, y, projections, (wx, wy) = _problem(n, m)
  options = {"p": p, "projections": projections}
  if weighted:
    options.update(x_weights=wx, y_weights=wy)
  values = [sliced_wasserstein(None, x, y, engine=e, **options) for e in ("numpy", "jax")]
  np.testing.assert_allclose(*values, rtol=5e-6)


def test_kernels_run_under_jit_in_float64():
  x, y, projections, (wx, _) = _problem(60, 35)

  def costs(x, y, wx):
    return transport_cost(project_and_sort(x, projections, wx), project_and_sort(y, projections), 2)

  with jax.enable_x64(True):
    jitted = jax.jit(costs)(jnp.asarray(x), jnp.asarray(y), jnp.asarray(wx))
    np.testing.assert_allclose(jitted, costs(x, y, wx), rtol=1e-12)


def test_cost_can_be_differentiated():
  """Of two points moved by t along one axis, W_2^2 is t^2: its slope at t = 3 is 6."""
  x = jnp.array([[0.0], [1.0]])

  def cost(t):
    sides = (project_and_sort(side, jnp.ones((1, 1))) for side in (x + t, x))
    return transport_cost(*sides, 2)[0]

  np.testing.assert_allclose(jax.grad(cost)(3.0), 6.0, rtol=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_translation(p):
  """W_p of a set and its translate by t is |t|; along u it is |t.u|."""
  x, _, projections, _ = _problem(50, 1)
  t = np.array([3.0, -1.0, 2.0])
  along = np.abs(t @ projections)
  options = {"p": p, "projections": projections}
  sliced = sliced_wasserstein(None, x, x + t, **options)
  np.testing.assert_allclose(sliced, (along**p).mean() ** (1 / p), rtol=1e-12)
  highest = max_sliced_wasserstein(None, x, x + t, **options)
  np.testing.assert_allclose(highest, along.max(), rtol=1e-12)
  np.testing.assert_allclose(wasserstein(None, x, x + t, p=p), np.linalg.norm(t), rtol=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_exact_in_one_dimension_is_sorting(p):
  x, y, _, _ = _problem(80, 80, d=1)
  expected = (np.abs(np.sort(x, 0) - np.sort(y, 0)) ** p).mean() ** (1 / p)
  np.testing.assert_allclose(wasserstein(None, x, y, p=p), expected, rtol=1e-9)
  np.testing.assert_allclose(sliced_wasserstein(KEY, x, y, p=p), expected, rtol=1e-12)


@pytest.mark.e2e
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(
  "points",
  [[-9.0, 5.0, 5.0, 100.0], pytest.param([-1.0, 0.2, 0.25, 3.0], marks=pytest.mark.e2e)],
  ids=str,
)
def test_against_a_law_is_the_integral(points, p):
  """SciPy's quadrature of |x_(i) - Q(u)|^p with SciPy's root of the cdf as Q."""
  weights, means, stds = np.array([0.3, 0.7]), np.array([-1.0, 2.0]), np.array([0.5, 1.0])
  target = GaussianMixture(weights, means[:, None], stds**2)

  def quantile(u):
    return optimize.brentq(lambda q: weights @ stats.norm.cdf((q - means) / stds) - u, -40, 40)

  n = len(points)
  pieces = [
    integrate.quad(lambda u, x=x: abs(x - quantile(u)) ** p, i / n, (i + 1) / n, limit=200)[0]
    for i, x in enumerate(sorted(points))
  ]
  value = sliced_wasserstein(KEY, np.array(points), target, p=p, num_projections=2)
  np.testing.assert_allclose(value**p, sum(pieces), rtol=1e-6)


@pytest.mark.e2e
@pytest.mark.parametrize("p", [1, 2])
def test_offsets_change_nothing(p):
  """Against points and a law, 1e8 from the origin: float64 rounds points there to 1.5e-8."""
  x, y, _, _ = _problem(60, 60, d=2)
  means, variances = np.array([[-1.0, 0.0], [1.0, 2.0]]), np.array([0.1, 0.2])
  with jax.enable_x64(True):
    for metric, law in ((wasserstein, False), (sliced_wasserstein, True)):
      options = {"p": p, "num_projections": 5} if law else {"p": p}
      near = GaussianMixture(np.ones(2), means, variances) if law else y
      far = GaussianMixture(np.ones(2), means + 1e8, variances) if law else y + 1e8
      expected = metric(KEY, x, near, **options)
      np.testing.assert_allclose(metric(KEY, x + 1e8, far, **options), expected, rtol=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_exact_with_a_shared_point_far_away(p):
  """It costs nothing and takes its share of the mass; what is near is not lost beside its 1e16."""
  x, y, _, _ = _problem(60, 60, d=2)
  expected = wasserstein(None, x, y, p=p) * (60 / 61) ** (1 / p)
  far = np.full((1, 2), 1e16)
  value = wasserstein(None, np.concatenate([x, far]), np.concatenate([y, far]), p=p)
  np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.e2e
@pytest.mark.parametrize("p", [1, 2])
def test_against_atoms_is_against_their_points(p):
  """A mixture without width is its means, weighted; half the samples lie on them exactly."""
  means = np.array([[-2.0, 0.0], [1.0, 3.0], [0.5, 0.5]])
  weights = np.array([0.25, 0.5, 0.25])
  x = np.concatenate([means, means + 0.3])
  projections = np.array([[1.0, 0.6], [0.0, -0.8]])
  target = GaussianMixture(weights, means, np.zeros(3))
  options = {"p": p, "projections": projections}
  expected = sliced_wasserstein(None, x, means, y_weights=weights, **options)
  np.testing.assert_allclose(sliced_wasserstein(None, x, target, **options), expected, rtol=1e-6)
  some = means[[0, 1, 1, 2]]  # the law itself
  assert sliced_wasserstein(None, some, target, **options) < 1e-6


def test_against_a_gaussian():
  """W_2^2 of N(a, s^2) and N(b, r^2) is (a - b)^2 + (s - r)^2; x are the first's quantiles."""
  x = 1 + 2 * stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
  target = GaussianMixture(np.ones(1), np.array([[-2.0]]), np.array([0.25]))
  value = sliced_wasserstein(KEY, x, target, num_projections=1)
  np.testing.assert_allclose(value**2, 9 + 1.5**2, rtol=1e-3)


@pytest.mark.e2e
@pytest.mark.parametrize("p", [2, pytest.param(1, marks=pytest.mark.e2e)])
def test_against_a_law_is_the_limit_of_many_points(p):
  means = np.array([[-3.0, 0.0], [2.0, 2.0], [0.0, -4.0]])
  covariances = np.array([np.eye(2), [[1.0, 0.6], [0.6, 0.5]], 0.1 * np.eye(2)])
  target = GaussianMixture(np.array([0.2, 0.5, 0.3]), means, covariances)
  x_key, y_key = jax.random.split(jax.random.key(1))
  x, y = target.sample(x_key, 300) * 1.2, target.sample(y_key, 100_000)
  law, points = (sliced_wasserstein(KEY, x, r, p=p, num_projections=30) for r in (target, y))
  np.testing.assert_allclose(law, points, rtol=0.02)
  # The law of 300 exact samples is the floor without y's noise: below that of 300 against 300.
  floor = sliced_wasserstein(KEY, y[:300], y[300:600], p=p, num_projections=30)
  assert 0 < sliced_wasserstein(KEY, y[:300], target, p=p, num_projections=30) < floor


def test_reference_gives_the_same_and_is_prepared_once():
  x, y, _, _ = _problem(40, 60, d=2)
  target = GaussianMixture(np.ones(1), np.zeros((1, 2)), np.ones(1))
  # Other numbers of samples share the points' sorted projections.
  for given, sizes in [(y, (40, 39)), (target, (40,))]:
    reference = Reference(y, target) if given is y else Reference(target=target)
    for n in sizes:
      values = [sliced_wasserstein(KEY, x[:n], r, num_projections=9) for r in (given, reference)]
      np.testing.assert_allclose(*values, rtol=1e-12)
    before = list(reference._cache.values())
    max_sliced_wasserstein(KEY, x, reference, num_projections=9)
    assert {id(v) for v in before} == {id(v) for v in reference._cache.values()}
    assert len(before) == 1


def test_many_chunks_equal_one(monkeypatch):
  from scorelab.metrics import transport

  x, y, projections, _ = _problem(40, 60)
  whole = sliced_wasserstein(None, x, y, projections=projections)
  monkeypatch.setitem(
    transport.ENGINES, "numpy", transport.ENGINES["numpy"]._replace(chunk_values=300)
  )
  np.testing.assert_allclose(
    sliced_wasserstein(None, x, y, projections=projections), whole, rtol=1e-12
  )


def test_directions_are_uniform_on_the_sphere():
  u = random_directions(KEY, 3, 20_000)
  np.testing.assert_allclose(np.linalg.norm(u, axis=0), 1, rtol=1e-12)
  np.testing.assert_allclose(u.mean(1), 0, atol=4 / np.sqrt(3 * 20_000))
  np.testing.assert_allclose(u @ u.T / 20_000, np.eye(3) / 3, atol=0.01)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_a_coordinate_of_a_direction_has_its_law_on_the_sphere(dim):
  """Its square is Beta(1/2, (d - 1) / 2) along every axis, by Kolmogorov's test.

  Second moments do not tell a sphere from a cube, along its edges and its diagonals.
  """
  u = random_directions(KEY, dim, 20_000)
  law = stats.beta(1 / 2, (dim - 1) / 2)
  diagonal = np.ones(dim) / dim**0.5
  for axis in (np.eye(dim)[0], diagonal):
    assert stats.kstest((axis @ u) ** 2, law.cdf).pvalue > 1e-3


def test_max_grows_with_projections_and_keys_matter():
  x, y, _, _ = _problem(40, 60)
  few, many = (max_sliced_wasserstein(KEY, x, y, num_projections=k) for k in (2, 2000))
  assert few < many <= wasserstein(None, x, y) + 1e-9
  one, other = (sliced_wasserstein(jax.random.key(s), x, y, num_projections=5) for s in (0, 1))
  assert one != other


def test_images_are_points():
  x, y, _, _ = _problem(20, 30, d=12)
  flat = sliced_wasserstein(KEY, x, y, num_projections=5)
  images = (a.reshape(-1, 2, 2, 3) for a in (x, y))
  assert sliced_wasserstein(KEY, *images, num_projections=5) == flat


X = np.zeros((4, 2))
LAW = GaussianMixture(np.ones(1), np.zeros((1, 2)), np.ones(1))


@pytest.mark.parametrize(
  "arguments, options, message",
  [
    ((KEY, X, X), {"p": 3}, "p = 3, must be 1 or 2"),
    ((KEY, X, X), {"engine": "cuda"}, "engine = 'cuda', must be one of numpy, jax"),
    ((KEY, X, X), {"num_projections": 0}, "num_projections = 0, must be at least 1"),
    ((None, X, X), {}, "key = None"),
    ((KEY, X, np.zeros((4, 3))), {}, "y has points of dimension 3, must be 2"),
    ((KEY, np.zeros((4, 3)), LAW), {}, "x has points of dimension 3, must be 2"),
    ((KEY, np.zeros((0, 2)), X), {}, r"x has shape \(0, 2\)"),
    ((KEY, X, X), {"projections": np.ones((3, 5))}, r"projections have shape \(3, 5\)"),
    ((KEY, X, X), {"x_weights": np.ones(3)}, r"x_weights have shape \(3,\), must be \[4\]"),
    ((KEY, X, X), {"y_weights": -np.ones(4)}, "y_weights must be finite, at least 0"),
    ((KEY, X, LAW), {"x_weights": np.ones(4)}, "x_weights"),
    ((KEY, X, Reference(X)), {"y_weights": np.ones(4)}, "y_weights"),
  ],
)
def test_refusals_are_one_clear_line(arguments, options, message):
  with pytest.raises(ValueError, match=message) as error:
    sliced_wasserstein(*arguments, **options)
  assert "\n" not in str(error.value)


def test_exact_refusals():
  with pytest.raises(ValueError, match="at most 5000"):
    wasserstein(None, np.zeros((5001, 2)), X)
  with pytest.raises(ValueError, match="p = 0, must be 1 or 2"):
    wasserstein(None, X, X, p=0)
  with pytest.raises(ValueError, match="Reference without points"):
    wasserstein(None, X, Reference(target=LAW))
  with pytest.raises(ValueError, match="needs points, a target, or both"):
    Reference()
