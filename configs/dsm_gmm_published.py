"""Denoising score matching at one level of noise, std 1, as a JAX notebook published it.

  python main.py --config=configs/dsm_gmm_published.py
  python main.py --config=configs/dsm_gmm_published.py:fast    # seconds, for tests

The notebook's code gave a loss of 0.210 over the last 100 of 3000 steps, where 0.182 is the best,
and a relative score error of 0.0094. Expect a loss of 0.210, and an error that wanders with the
last iterate: 0.025 after 3000 steps of the run that is committed.
"""

from ml_collections import ConfigDict

from configs import base, hyvarinen_gmm_published


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = hyvarinen_gmm_published.get_config()
  config.network.output_activation = None
  config.loss.update(name="denoising", sigma=1.0)
  config.optimizer.learning_rate = 1e-2
  config.sampler.update(sigma=1.0, step_size=1e-1)
  config.evaluation.score_levels = (1.0,)
  return base.variant(config, arg)
