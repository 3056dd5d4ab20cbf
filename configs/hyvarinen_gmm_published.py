"""Hyvarinen's score matching on the nine modes as a JAX notebook published it: it does not learn.

  python main.py --config=configs/hyvarinen_gmm_published.py
  python main.py --config=configs/hyvarinen_gmm_published.py:fast  # seconds, for tests

The notebook's code gave a loss of -0.087 over the last 100 steps where the optimum is -10, and a
relative score error of 0.995: a score of nothing has 1. Expect -0.027 and an error of 0.998; over
the last 1000 steps means over 100 of them go from -0.152 to -0.023. The last layer is taken to end
in a leaky ReLU, as that of the notebook's NCSN does: without, layer normalisation finds a huge
negative divergence at one of the fixed points, and the loss falls without learning.
"""

from ml_collections import ConfigDict

from configs import base
from configs.presets.score_matching import score_matching


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = score_matching("hyvarinen")
  config.target.num_train = 10_000
  config.parameterization.name = "score"
  config.network = base.get_config().network
  config.network.update(name="mlp", widths=(128, 512, 256), norms=(True, True, True))
  config.network.output_activation = "leaky_relu"
  config.optimizer.update(
    learning_rate=1e-4, decay="constant", warmup_steps=0, clip_norm=0.0, ema_decays=()
  )
  config.training.update(num_steps=3000, batch_size=2048)
  return base.variant(config, arg)
