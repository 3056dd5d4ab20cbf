"""Denoising diffusion of images: what the data sets have in common."""

from ml_collections import ConfigDict

from configs import base


def images(features: str) -> ConfigDict:
  """Denoising diffusion of images: all settings but the data, the network and the lengths.

  T = 1000 linear betas; a network conditioned on the step's index, with EDM's scaling; an
  average over the last five hundred steps. Samples are drawn in batches, over one key, and
  measured in pixels and in the features of this name.
  """
  config = base.get_config()
  config.schedule.update(name="linear_betas", num_levels=1000, beta_min=1e-4, beta_max=0.02)
  config.parameterization.update(name="edm", conditioning="time_index")
  config.loss.update(name="ddpm", levels="grid", num_levels=1000, spacing="uniform")
  config.optimizer.update(learning_rate=1e-3, ema_decays=(0.998,))
  config.training.update(log_every=50, checkpoint_every=500, keep_every=500, num_validation=256)
  config.sampler.update(name="dpmpp_2m", num_steps=32, grid="karras")
  config.evaluation.update(reference="test", num_keys=1, num_samples=1000, batch_size=100)
  config.evaluation.rows = ("heun:16", "ddim:50")
  measured = ("frechet", "kernel_distance", "precision", "recall", "sliced_wasserstein")
  config.evaluation.metrics = (
    *("frechet", "sliced_wasserstein"),
    *(f"{name}:features={features}" for name in measured),
  )
  return config


def small_images(config: ConfigDict, arg: str) -> ConfigDict:
  """`base.variant` of a config on images: for 'fast' the network is small and samples are few."""
  if arg == "fast":
    config.network.update(dim=8, dim_mults=(1, 2), num_heads=2, head_dim=4)
    if config.network.attention is not None and len(config.network.attention) > 1:
      config.network.attention = ("none", "full")
    config.evaluation.rows = ("ddim:4",)
    config.sampler.num_steps = 4
  config = base.variant(config, arg)
  if arg == "fast":
    config.training.batch_size = 8
    config.evaluation.update(num_samples=20, batch_size=10, num_keys=1)
  return config
