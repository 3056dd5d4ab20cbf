"""A diffusion transformer of 8 by 8 digits, in the place of the U-Net of ddpm_digits.

python main.py --config=configs/dit_digits.py
python main.py --config=configs/dit_digits.py:fast         # seconds, for tests
"""

from ml_collections import ConfigDict

from configs import base, ddpm_digits


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ddpm_digits.get_config(arg)
  config.network = base.get_config().network
  config.network.update(name="dit", patch_size=2, width=96, depth=6, num_heads=3)
  if arg == "fast":
    config.network.update(width=16, depth=1, num_heads=2)
  return config
