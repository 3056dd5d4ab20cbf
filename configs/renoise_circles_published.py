"""Going back by way of x_0 on two circles, as a JAX notebook published it.

  python main.py --config=configs/renoise_circles_published.py
  python main.py --config=configs/renoise_circles_published.py:fast    # seconds, for tests

Todo:
"""

from ml_collections import ConfigDict

from configs import base, ddpm_circles_published


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ddpm_circles_published.get_config()
  config.sampler.update(name="renoise", variance=None, slips=True, denoise=False)
  config.evaluation.rows = ("renoise:100:denoise=True", "renoise:100:slips=False:denoise=True")
  return base.variant(config, arg)
