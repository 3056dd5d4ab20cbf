"""A score-SDE tutorial on 8 by 8 digits, with its defects fixed.

  python main.py --config=configs/sbgm_digits.py
  python main.py --config=configs/sbgm_digits.py:fast         # seconds, for tests

The process ends at a noise of std 1.0 where the digits' own is 0.54, so that a Gaussian start is
far from the law it stands for: expect Frechet distances of 7 +- 2 by 20 Euler steps and of 98 +- 38
by Heun with 31 evaluations, which follows a few starts far out to where they lead.
"""

from ml_collections import ConfigDict

from configs import base
from configs.presets.digits import digits


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = digits()
  config.schedule.update(name="sigma_power", base=1.01)
  config.evaluation.rows = ("dpmpp_2m:32", "euler_time:20")
  return base.variant(config, arg)
