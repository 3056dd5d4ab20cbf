"""Diffusion as of 2015 on a swiss roll as a PyTorch notebook published it, for a tenth as long.

  python main.py --config=configs/diffusion2015_swissroll_published.py         # 3 minutes on 1 core
  python main.py --config=configs/diffusion2015_swissroll_published.py:fast    # seconds, for tests

Each training step draws one step of the chain, t in 2..40, for the whole batch; the heads of the
others, and their moments in Adam, stand still, as PyTorch leaves them. Mean and log-variance are
the network's bare output. The notebook goes on for 299,000 steps of far larger batches.

Expect a KL per dimension of 1.14 to 1.20 nats after 8000 steps, 0.86 after 16,000 and 0.76 to 0.94
after 32,000, by the run, where the optimum is 0.0878, and sliced W2 0.191 +- 0.001, eleven floors.
A head is drawn once in 39 steps, and has to learn that x_(t-1) is nearly x_t, and a log-variance
from -2 to -12, at a learning rate of 1e-4: what diffusion2015_swissroll.py starts with.
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
