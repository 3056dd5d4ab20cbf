"""One denoising step on two circles, as a JAX notebook published it: it fails, which is the point.

  python main.py --config=configs/one_step_circles.py
  python main.py --config=configs/one_step_circles.py:fast    # seconds, for tests

The network predicts the noise of x = 0.01 x_0 + eps and a sample is 100 (z - noise). Expect a loss
per coordinate, averaged over the 5000 steps before, of 1.36e-3 +- 0.06e-3, 4.14e-4 +- 0.13e-4 and
1.38e-4 +- 0.02e-4 at 5000, 10,000 and 60,000 steps (5 seeds, scripts/circles.py; the notebook's
run 1.49e-3, 3.97e-4 and 1.33e-4; the one logged here sums both coordinates), and samples that are
0.52 +- 0.15 from the circles (two keys of the notebook's code: 0.42 and 0.69).
"""

from ml_collections import ConfigDict

from configs import base, ddpm_circles_published


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ddpm_circles_published.get_config()
  config.schedule.update(
    name="gaussian_channel", num_levels=None, beta_min=None, beta_max=None, alpha_min=0.01
  )
  config.parameterization.conditioning = "none"
  config.network.level_features = "none"
  config.loss.num_levels = 1
  config.sampler.update(name="ddim", num_steps=1, variance=None)
  config.evaluation.update(rows=(), score_levels=(100.0,))
  return base.variant(config, arg)
