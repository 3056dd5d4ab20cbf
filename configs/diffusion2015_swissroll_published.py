"""Diffusion as of 2015 on a swiss roll as a PyTorch notebook published it, for a tenth as long.

  python main.py --config=configs/diffusion2015_swissroll_published.py         # minutes
  python main.py --config=configs/diffusion2015_swissroll_published.py:fast    # seconds, for tests

Each training step draws one step of the chain, t from 2 to 40, for the whole batch; the heads of
the others, and their moments in Adam, stand still, as PyTorch leaves them. Mean and log-variance
are the network's bare output. The notebook trains for far longer, with far larger batches.

Expect a KL per dimension of 1.20 nats after 8000 steps, 0.86 after 16,000 and 0.94 after 32,000 (it
wanders), where the optimum is 0.0878, and sliced W2 0.191 +- 0.001, floor 0.018.
A head is drawn once in 39 steps, and has to learn that x_(t-1) is nearly x_t, and a log-variance
far from its start, at a learning rate of 1e-4: what diffusion2015_swissroll.py starts with.
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
