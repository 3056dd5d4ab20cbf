"""Diffusion as of 2015 on a swiss roll, as published.

python main.py --config=configs/diffusion2015_swissroll_published.py
python main.py --config=configs/diffusion2015_swissroll_published.py:fast    # seconds, for tests
"""

from ml_collections import ConfigDict

from configs import base
from configs.diffusion2015_swissroll import chain


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = chain(base.get_config())
  config.parameterization.relative = False
  config.loss.uniforms = "shared"
  config.optimizer.update(
    learning_rate=1e-4, decay="constant", warmup_steps=0, clip_norm=0.0, ema_decays=()
  )
  config.training.update(
    num_steps=32_000, batch_size=1024, log_every=500, checkpoint_every=1000, keep_every=1000
  )
  return base.variant(config, arg)
