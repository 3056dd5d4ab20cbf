"""Operators and observations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from scorelab.inverse import Blur, Downsample, Mask, Matrix, Observation, observed
from scorelab.targets import nine_modes

KEEP = np.random.default_rng(0).random((6, 4, 2)) < 0.4
OPERATORS = {
  "matrix": Matrix(np.random.default_rng(1).normal(size=(3, 5))),
  "images": Matrix(np.random.default_rng(1).normal(size=(3, 12)), event_shape=(3, 4, 1)),
  "mask": Mask(KEEP),
  "blur": Blur((6, 4, 2), std=0.8),
  "wide_blur": Blur((3, 3, 1), std=2.5),
  "downsample": Downsample((6, 4, 2), factor=2),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoints(name):
  """<A x, y> = <x, A' y>, batch by batch; to float32's rounding. The matrix is the same map."""
  operator = OPERATORS[name]
  rng = np.random.default_rng(2)
  x = jnp.asarray(rng.normal(size=(2, 3, *operator.event_shape)), jnp.float32)
  y = jnp.asarray(rng.normal(size=(2, 3, operator.dim)), jnp.float32)
  axes = tuple(range(2, x.ndim))
  here = np.sum(operator(x) * y, axis=-1)
  np.testing.assert_allclose(here, np.sum(x * operator.adjoint(y), axis=axes), atol=1e-5)
  flat = np.reshape(x, (2, 3, -1))
  np.testing.assert_allclose(operator(x), flat @ np.asarray(operator.matrix).T, atol=1e-5)


def test_image_operators_against_numpy_and_scipy():
  image = np.random.default_rng(3).normal(size=(6, 4, 2)).astype(np.float32)
  np.testing.assert_array_equal(OPERATORS["mask"](image), image[KEEP])
  blurred = scipy.ndimage.gaussian_filter1d(image, 0.8, axis=0, mode="reflect", radius=3)
  blurred = scipy.ndimage.gaussian_filter1d(blurred, 0.8, axis=1, mode="reflect", radius=3)
  np.testing.assert_allclose(OPERATORS["blur"](image), blurred.ravel(), atol=1e-6)
  small = scipy.ndimage.uniform_filter(image, (2, 2, 1), origin=(-1, -1, 0))[::2, ::2]
  np.testing.assert_allclose(OPERATORS["downsample"](image), small.ravel(), atol=1e-6)


def test_log_likelihood_is_a_normal_density():
  rng = np.random.default_rng(4)
  a, x, y = rng.normal(size=(2, 3)), rng.normal(size=(4, 3)), rng.normal(size=2)
  expected = scipy.stats.multivariate_normal(np.zeros(2), 0.3**2 * np.eye(2)).logpdf(y - x @ a.T)
  np.testing.assert_allclose(Observation(a, y, 0.3).log_likelihood(x), expected, rtol=1e-5)


def test_observed_draws_noise_of_its_std():
  """Mean A x and std 0.2 over 4,000 keys, within five standard errors."""
  x = jnp.array([1.0, -2.0, 0.5])
  keys = jax.random.split(jax.random.key(0), 4000)
  ys = jax.vmap(lambda key: observed(key, OPERATORS["matrix"], jnp.tile(x, 2)[:5], 0.2).y)(keys)
  error = 5 * 0.2 / 4000**0.5
  np.testing.assert_allclose(ys.mean(0), OPERATORS["matrix"](jnp.tile(x, 2)[:5]), atol=error)
  np.testing.assert_allclose(ys.std(0), 0.2, atol=error)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: Observation([1.0, 2.0], [1.0], 0.1), r"A has shape \(2,\), must be \[m, d\]"),
    (lambda: Observation(np.eye(2), [1.0], 0.1), r"y has shape \(1,\), must be \[2\]"),
    (lambda: Observation(np.eye(2), [1.0, 2.0], -0.1), "noise_std = -0.1 must be at least 0"),
    (lambda: Matrix(np.eye(2), event_shape=(3,)), r"A has shape \(2, 2\), must be \[m, 3\]"),
    (lambda: Mask(np.zeros((2, 2))), "keep must be a mask of bools"),
    (lambda: Downsample((5, 4, 1)), "factor = 2 must divide height and width, 5 x 4"),
    (lambda: Blur((5, 4), std=1.0), r"event_shape = \(5, 4\) must be \(height, width, channels\)"),
    (
      lambda: Observation(np.eye(2), [1.0, 2.0], 0.0).log_likelihood(np.ones(2)),
      "noise_std = 0 must be > 0 for log_likelihood",
    ),
    (
      lambda: nine_modes().given(Observation(np.eye(3), np.ones(3), 0.1)),
      r"A has shape \(3, 3\), must be \[m, 2\] for this target",
    ),
    (
      lambda: nine_modes().given(Observation([[1.0, 1.0], [2.0, 2.0]], np.ones(2), 0.0)),
      "noise_std = 0 needs an A that sees every component vary along all of y",
    ),
  ],
)
def test_bad_input_is_one_line(call, message):
  with pytest.raises(ValueError, match=message) as error:
    call()
  assert "\n" not in str(error.value)
