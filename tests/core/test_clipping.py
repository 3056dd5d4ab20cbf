"""x0 within bounds, from a config and by hand; the oracle's runs are in test_solver_families."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.experiment.sampler_spec import make_row
from scorelab.predictions import Prediction
from scorelab.predictions.clipping import clipped, thresholded
from scorelab.schedules import Level, VarianceExploding
from scorelab.targets.mixtures import nine_modes

LEVEL = Level(jnp.asarray(0.5), jnp.asarray(1.0), jnp.asarray(2.0))


def same_x0(x, level):
  """A prediction whose x0 is x itself."""
  return Prediction.of(x, level, "x0", x0=x)


def row_of(**settings):
  given = {"name": "ddim", "num_steps": 8, "grid": "karras", **settings}
  return make_row(given, "sampler", VarianceExploding(0.02, 80.0), False)


def test_a_threshold_keeps_what_is_inside():
  """An event within [-1, 1] is left; of another the quantile of |x0| becomes 1."""
  x = jax.random.normal(jax.random.key(0), (4, 100)) * jnp.array([0.01, 1.0, 10.0, 40.0])[:, None]
  x0 = np.asarray(thresholded(same_x0, clip_quantile=0.9)(x, LEVEL).x0)
  np.testing.assert_array_equal(x0[0], x[0])
  raw = np.abs(np.asarray(x))
  for i in (2, 3):
    q = np.quantile(raw[i], 0.9)
    inside = raw[i] <= q
    np.testing.assert_allclose(np.abs(x0[i][inside]), raw[i][inside] / q, rtol=1e-5)
    np.testing.assert_allclose(np.abs(x0[i][~inside]), 1, rtol=1e-6)


def test_the_noise_agrees_with_x0_or_stays():
  """x = alpha x0 + sigma noise with the clipped x0; or the noise of before."""
  x = 5 * jax.random.normal(jax.random.key(0), (4, 3))
  before = same_x0(x, LEVEL)
  mended, kept = (clipped(same_x0, clip_keep_noise=keep)(x, LEVEL) for keep in (False, True))
  np.testing.assert_array_equal(mended.x0, kept.x0)
  np.testing.assert_allclose(LEVEL.alpha * mended.x0 + LEVEL.sigma * mended.noise, x, rtol=1e-6)
  np.testing.assert_array_equal(kept.noise, before.noise)


@pytest.mark.parametrize("clipping", ["static", "dynamic"])
def test_a_row_clips(clipping):
  """The last step onto the data gives x0 itself: within the limit, where without it is not."""
  x = 80 * jax.random.normal(jax.random.key(0), (200, 2))
  predict = nine_modes().predict
  free = row_of().run(jax.random.key(1), predict, x).x
  held = row_of(clipping=clipping, clip_limit=1.0).run(jax.random.key(1), predict, x).x
  assert np.abs(free).max() > 9 and np.abs(held).max() <= 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"clipping": "dinamic"}, "did you mean 'dynamic'"),
    ({"clip_limit": 1.0}, "clip_limit = 1.0 is not an option of dpmpp_2m"),
    ({"clipping": "static", "clip_quantile": 0.9}, "and static clipping"),
    ({"clipping": "dynamic", "clip_quantile": 2.0}, "must be in"),
  ],
)
def test_what_does_not_clip_is_refused(changes, message):
  config = base.variant(base.get_config(), "fast")
  config.sampler.update(changes)
  with pytest.raises(ConfigError, match=message):
    build(config)
