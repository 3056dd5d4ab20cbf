"""8 by 8 digits by the sub-VP process.

  python main.py --config=configs/subvp_digits.py
  python main.py --config=configs/subvp_digits.py:fast         # seconds, for tests

Expect a Frechet distance of 0.49 in pixels by Heun, 31 evaluations (real training digits: 0.36),
all ten classes, and 88 % as many confident digits as among real ones; with churn, 63 evaluations,
0.57 and 92 %.
"""

from ml_collections import ConfigDict

from configs import base
from configs.presets.digits import digits


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = digits()
  config.schedule.name = "sub_vp"
  return base.variant(config, arg)
