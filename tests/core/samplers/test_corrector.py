"""The Langevin corrector's step size."""

import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.predictions import Prediction
from scorelab.samplers import corrector_step
from scorelab.schedules import Level


@pytest.mark.parametrize("snr", [0.16, 0.5])
def test_the_drift_is_snr_times_the_noise_of_the_step(snr):
  """Song et al. 2021, algorithm 4: epsilon = 2 (snr |z| / |score|)^2, x + eps s + sqrt(2 eps) z."""
  score, z = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 2.0]])  # at right angles, to be told apart
  level = Level(None, jnp.ones(()), jnp.ones(()))
  pred = Prediction.of(jnp.zeros((1, 2)), level, "score", score=score)
  moved = np.asarray(corrector_step(pred, z, snr, event_ndim=1))[0]
  epsilon = 2 * (snr * 2 / 3) ** 2
  np.testing.assert_allclose(moved, [3 * epsilon, 2 * np.sqrt(2 * epsilon)], rtol=1e-6)
  np.testing.assert_allclose(moved[0] / moved[1], snr, rtol=1e-6)
