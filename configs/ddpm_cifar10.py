"""CIFAR-10, 32 by 32: the modern U-Net, T = 1000, cosine betas.

  python main.py --config=configs/ddpm_cifar10.py
  python main.py --config=configs/ddpm_cifar10.py:fast

The images come from the hub, or with --config.target.path=FOLDER from files or Parquet. For hours
on a GPU; nothing here was measured.
"""

from ml_collections import ConfigDict

from configs.presets.images import images, small_images


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = images("rotations")
  config.target.update(name="images", path="hub:uoft-cs/cifar10", side=32, flip=True)
  config.target.column = "img"
  config.schedule.update(name="cosine_betas", beta_min=None, beta_max=None)
  config.network.update(name="modern_unet", dim=128, dim_mults=(1, 2, 2, 2), dtype="bfloat16")
  config.network.attention = ("none", "full", "none", "none")
  config.optimizer.update(learning_rate=2e-4, decay="constant", warmup_steps=5000)
  config.optimizer.ema_decays = (0.9999,)
  config.training.update(num_steps=400_000, batch_size=128)
  config.training.update(checkpoint_every=5000, keep_every=50_000)
  config.evaluation.update(num_samples=10_000, batch_size=500)
  return small_images(config, arg)
