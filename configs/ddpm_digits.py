"""A U-Net of 8 by 8 digits: denoising diffusion with T = 1000, sampled in 20 to 50 evaluations.

  python main.py --config=configs/ddpm_digits.py
  python main.py --config=configs/ddpm_digits.py:fast         # seconds, for tests
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = base.images(base.get_config())
  config.target.update(name="digits", dequantise=True)
  config.network.update(name="modern_unet", dim=32, dim_mults=(1, 2), attention=("none", "full"))
  config.training.update(num_steps=3000, batch_size=64)
  return base.variant(config, arg)
