"""A config with every field at its default; presets/ has what families of experiments share.

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
