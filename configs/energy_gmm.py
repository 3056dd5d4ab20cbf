"""An energy network on the nine-mode mixture: its score is a gradient, so Metropolis can use it.

  python main.py --config=configs/energy_gmm.py            # minutes on 2 CPU cores
  python main.py --config=configs/energy_gmm.py:fast       # seconds, for tests

The settings of ncsn_gmm.py for half as many steps, each of which costs about twice as much. MALA
at the least level is as wide within the modes as with the exact density; but some of its chains,
which start from N(0, 100 I), end off every mode, as none does with the exact density. No result of
this config is committed.
"""

from ml_collections import ConfigDict

from configs import ncsn_gmm


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ncsn_gmm.get_config(arg)
  config.parameterization.energy = True
  config.training.num_steps = min(config.training.num_steps, 3000)
  config.evaluation.rows = ("mala:200:step_size=0.03:sigma=0.1:start_std=10.0",)
  return config
