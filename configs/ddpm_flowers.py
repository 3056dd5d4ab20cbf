"""Flowers, 128 by 128, as published: a U-Net of 32,009,619 parameters, T = 1000, L1 on the noise.

  python main.py --config=configs/ddpm_flowers.py
  python main.py --config=configs/ddpm_flowers.py:fast    # minutes on a CPU, for tests

The images of Oxford Flowers 102 come from the hub, or with --config.target.path=FOLDER from
files or Parquet.

Published, on NVIDIA GPUs of 2022: 34 images a second at batch 24 on one, about 70 at batch 192 on
eight. `python scripts/throughput.py` measures this model's.
"""

from ml_collections import ConfigDict

from configs.presets.images import images, small_images


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a short run, of minutes on a CPU."""
  config = images("rotations")
  config.target.update(name="images", path="hub:huggan/flowers-102-categories", side=128, flip=True)
  config.network.update(name="unet", dim=128, dim_mults=(1, 2, 4), block="resnet", dtype="bfloat16")
  config.parameterization.name = "noise"
  config.loss.norm = "l1"
  config.optimizer.update(learning_rate=1e-3, decay="constant", warmup_steps=0, clip_norm=0.0)
  config.optimizer.ema_decays = (0.9999,)
  config.training.update(num_steps=20_000, batch_size=192)
  config.training.update(checkpoint_every=1000, keep_every=5000)
  # The published way is the first: all T steps, with the posterior's variance.
  config.sampler.update(name="ancestral", num_steps=1000, grid="uniform", variance="small")
  config.evaluation.rows = ("dpmpp_2m:32:grid=karras", "ddim:50")
  config.evaluation.batch_size = 128
  return small_images(config, arg)
