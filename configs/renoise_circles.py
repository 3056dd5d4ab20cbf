"""Going back by way of x_0 on two circles, our settings.

  python main.py --config=configs/renoise_circles.py
  python main.py --config=configs/renoise_circles.py:fast    # seconds, for tests

Expect samples 0.007 from the circles, and 0.027 where the last x_0 is not returned (the published
settings: 0.089).
"""

from ml_collections import ConfigDict

from configs import base, ddpm_circles


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ddpm_circles.get_config()
  config.sampler.update(name="renoise", variance=None)
  config.evaluation.rows = ("ancestral:100", "renoise:100:denoise=False")
  return base.variant(config, arg)
