"""8 by 8 digits given a part of one: inpainting, or super-resolution, with a trained network.

  python main.py --config=configs/posterior_digits.py
  python main.py --config=configs/posterior_digits.py:fast   # seconds, for tests
  python main.py --config=configs/posterior_digits.py --config.observation.name=downsample

The lower half of a test digit is hidden; or four pixels are seen as one, their mean. The posterior
is not known, so metrics say whether samples agree with what was seen (measurement_misfit: near one
for exact samples) and look like digits (confident_share); the floors are those of real digits
without the observation. No result of this config is committed.
"""

from ml_collections import ConfigDict

from configs import base
from configs.presets.digits import digits


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = digits()
  config.schedule.update(name="variance_exploding", sigma_min=0.01, sigma_max=20.0, rho=7.0)
  config.observation.update(name="inpainting", hidden=(4, 0, 4, 8), noise_std=0.05)
  config.sampler.update(name="ddim", num_steps=50, eta=1.0, posterior="pigdm", prior_std=0.54)
  config.evaluation.rows = (
    "ddim:50:posterior=mmps:prior_std=None:iterations=3",
    "ddim:50:posterior=ddnm:prior_std=None",
    "ddrm:50",
    "tds:50:particles=8:twist=pigdm",
  )
  config.evaluation.metrics = ("measurement_misfit", "confident_share", "class_count")
  config.evaluation.update(num_keys=3, num_samples=200, score_levels=())
  return base.variant(config, arg)
