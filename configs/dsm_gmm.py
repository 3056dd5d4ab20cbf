"""Denoising score matching at one level of noise, std 1, on the nine modes.

  python main.py --config=configs/dsm_gmm.py
  python main.py --config=configs/dsm_gmm.py:fast    # seconds, for tests

Expect a relative score error of 0.00027 ± 0.00001 at that level (over single modes: up to 0.00074),
where the published settings (dsm_gmm_published.py) have 0.025. Half of the draws are in the tails,
which have most of the error. The score is that of the smoothed data, and the chain samples those
(variance 1.1, not 0.1, within a mode): the budget, which measures against the data, says what the
smoothing costs as discretisation.
"""

from ml_collections import ConfigDict

from configs import base
from configs.presets.score_matching import score_matching


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = score_matching("denoising")
  config.loss.sigma = 1.0
  config.training.num_steps = 2000
  config.sampler.update(sigma=1.0, step_size=1e-1)
  config.evaluation.score_levels = (1.0,)
  return base.variant(config, arg)
