"""Score matching on the nine modes: what its losses have in common."""

from ml_collections import ConfigDict

from configs import base


def score_matching(loss: str) -> ConfigDict:
  """A score of the nine modes, learned at the data by this loss.

  The modes are 10 apart and 0.3 wide: the network sees data scaled to unit std through Fourier
  features that resolve a mode; the learning rate warms up and decays, gradients are clipped, and an
  average is evaluated. Every batch has new points: on a fixed set these losses have no lower bound.
  Chains start from N(0, 100 I) and mix within modes only; a quarter of them ends off every mode, in
  wells outside the data, where an implicit loss sees no point and so says nothing of the score.
  """
  config = base.get_config()
  config.parameterization.update(name="scaled_score", conditioning="none")
  config.network.update(name="residual_mlp", width=128, depth=2, point_scale=4.0)
  config.loss.name = loss
  config.optimizer.learning_rate = 3e-3
  config.training.update(num_steps=4000, batch_size=1024)
  config.sampler.update(name="ula", num_steps=1000, step_size=1e-2, start_std=10.0)
  config.evaluation.update(rows=(), score_levels=(0.0,))
  return config
