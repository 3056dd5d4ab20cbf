"""8 by 8 digits by the variance-preserving process.

  python main.py --config=configs/vp_digits.py
  python main.py --config=configs/vp_digits.py:fast         # seconds, for tests

Expect a Frechet distance of 0.52 in pixels by Heun, 31 evaluations (real training digits: 0.36),
and all ten classes; 82 % as many confident digits as among real ones.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = base.digits(base.get_config())
  config.schedule.name = "variance_preserving"
  return base.variant(config, arg)
