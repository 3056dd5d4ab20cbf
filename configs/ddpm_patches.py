"""A U-Net of 32 by 32 patches of two photographs: denoising diffusion with T = 1000.

python main.py --config=configs/ddpm_patches.py
python main.py --config=configs/ddpm_patches.py:fast         # seconds, for tests
"""

from ml_collections import ConfigDict

from configs.presets.images import images, small_images


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = images("rotations")
  config.target.update(name="patches", side=32, stride=8, dequantise=True)
  config.network.update(name="modern_unet", dim=32, dim_mults=(1, 2, 2))
  config.network.attention = ("none", "none", "full")
  config.training.update(num_steps=4000, batch_size=32)
  config.evaluation.update(num_samples=200, batch_size=50)
  return small_images(config, arg)
