"""Hyvarinen's loss on 10,000 fixed points: it overfits, and stops on what held-out points say.

  python main.py --config=configs/overfit_gmm.py
  python main.py --config=configs/overfit_gmm.py --config.loss.name=sliced
  python main.py --config=configs/overfit_gmm.py:fast    # seconds, for tests

On a finite sample implicit losses have no lower bound: the training loss falls for ever, while the
loss of held-out points and the true score error turn and rise. Training stops 2000 steps after the
least held-out loss, and its checkpoint is evaluated. Expect a relative score error of 0.04.
"""

from ml_collections import ConfigDict

from configs import base
from configs.presets.score_matching import score_matching


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = score_matching("hyvarinen")
  config.target.num_train = 10_000
  config.optimizer.decay = "constant"
  config.training.update(checkpoint_every=100, patience=20)
  config.evaluation.checkpoint = "best"
  return base.variant(config, arg)
