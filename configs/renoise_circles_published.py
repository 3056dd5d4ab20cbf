"""Going back by way of x_0 on two circles, as a JAX notebook published it.

  python main.py --config=configs/renoise_circles_published.py
  python main.py --config=configs/renoise_circles_published.py:fast    # seconds, for tests

Expect samples 0.089 +- 0.002 from the circles as published (the notebook's code: 0.080 to 0.088),
0.044 with the last x_0 returned and 0.022 +- 0.002 with all slips fixed (the notebook's code,
fixed: 0.018 to 0.027); 5 seeds, scripts/circles.py.
"""

from ml_collections import ConfigDict

from configs import base, ddpm_circles_published


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ddpm_circles_published.get_config()
  config.sampler.update(name="renoise", variance=None, slips=True, denoise=False)
  config.evaluation.rows = ("renoise:100:denoise=True", "renoise:100:slips=False:denoise=True")
  return base.variant(config, arg)
