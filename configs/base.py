"""A config with every field at its default, and what the experiments next to this file share.

The defaults are in scorelab/config/sections.py; the other fields are the options of the parts, in
their signatures: `scorelab options sampler.dpmpp_2m` lists them. None means the named part's own
default; a value set that the named part lacks is an error.
"""

from ml_collections import ConfigDict

from scorelab.config.fields import make_config


def get_config() -> ConfigDict:
  """The fields; an experiment sets what it needs."""
  return make_config()


def variant(config: ConfigDict, arg: str) -> ConfigDict:
  """The config as it is for '', and the same experiment in seconds for 'fast'.

  Raises:
    ValueError: arg is neither.
  """
  if arg == "fast":
    if config.training.num_steps:
      config.training.num_steps = 60
    config.training.update(log_every=10, checkpoint_every=20, num_validation=512)
    config.training.keep_every = 20 if config.training.keep_every else 0
    config.training.batch_size = min(config.training.batch_size, 128)
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, 10)
    config.evaluation.update(num_keys=2, num_samples=200, num_reference=400, num_projections=50)
    config.evaluation.update(score_samples=256, rows=config.evaluation.rows[-1:])
    config.evaluation.likelihood_points = None
  elif arg:
    raise ValueError(f"config argument {arg!r} is not known (known: fast)")
  return config


def exact(config: ConfigDict) -> ConfigDict:
  """The config with the truth in the network's place, and nothing to train."""
  config.parameterization.name = "exact"
  config.training.num_steps = 0
  return config


def score_matching(config: ConfigDict, loss: str) -> ConfigDict:
  """The config with a score learned at the data by an implicit loss, and what that took.

  The modes are 10 apart and 0.3 wide: the network sees data scaled to unit std through Fourier
  features that resolve a mode; the learning rate warms up and decays, gradients are clipped, and an
  average is evaluated. Every batch has new points: on a fixed set these losses have no lower bound.
  Chains start from N(0, 100 I) and mix within modes only; a quarter of them ends off every mode, in
  wells outside the data, where an implicit loss sees no point and so says nothing of the score.
  """
  config.parameterization.update(name="scaled_score", conditioning="none")
  config.network.update(name="residual_mlp", width=128, depth=2, point_scale=4.0)
  config.loss.name = loss
  config.optimizer.learning_rate = 3e-3
  config.training.update(num_steps=4000, batch_size=1024)
  config.sampler.update(name="ula", num_steps=1000, step_size=1e-2, start_std=10.0)
  config.evaluation.update(rows=(), score_levels=(0.0,))
  return config


def digits(config: ConfigDict) -> ConfigDict:
  """The config on 8 by 8 digits, dequantised, with all that is not the process's own.

  The loss of held-out digits, each seen at 20 levels, is least after about 2200 steps; from there
  the samples' classes get surer, at some more memory of the 1212 training digits. Weight decay puts
  that off and lowers both. What is measured, against the 450 test digits, is the last step.
  """
  config.target.update(name="digits", dequantise=True)
  config.parameterization.update(name="edm", conditioning="log_sigma")
  config.network.update(name="mlp", widths=(1024,) * 3, norms=(False,) * 3, activation="silu")
  config.loss.name = "edm"
  config.optimizer.update(ema_decays=(0.998,), weight_decay=0.3)
  config.training.update(num_steps=4000, batch_size=128, checkpoint_every=200)
  config.training.validation_repeats = 20
  config.sampler.update(name="heun", num_steps=16, grid="karras", sigma_min=0.02)
  config.evaluation.update(reference="test", num_keys=5)
  config.evaluation.update(rows=("dpmpp_2m:32", "heun:32:churn=20.0"))
  config.evaluation.metrics = ("frechet", "confident_share", "class_count", "energy_distance")
  return config


def images(config: ConfigDict, features: str) -> ConfigDict:
  """The config on images, with what denoising diffusion of them shares.

  T = 1000 linear betas; a network conditioned on the step's index, with EDM's scaling; an
  average over the last five hundred steps. Samples are drawn in batches, over one key, and
  measured in pixels and in the features of this name.
  """
  config.schedule.update(name="linear_betas", num_levels=1000, beta_min=1e-4, beta_max=0.02)
  config.network = get_config().network
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
  """`variant` of a config on images: for 'fast' the network is small and samples are few."""
  if arg == "fast":
    config.network.update(dim=8, dim_mults=(1, 2), num_heads=2, head_dim=4)
    if config.network.attention is not None and len(config.network.attention) > 1:
      config.network.attention = ("none", "full")
    config.evaluation.rows = ("ddim:4",)
    config.sampler.num_steps = 4
  config = variant(config, arg)
  if arg == "fast":
    config.training.batch_size = 8
    config.evaluation.update(num_samples=20, batch_size=10, num_keys=1)
  return config
