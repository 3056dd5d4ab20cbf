"""A hundred denoising steps on two circles of ten points each, our settings.

  python main.py --config=configs/ddpm_circles.py
  python main.py --config=configs/ddpm_circles.py:fast    # seconds, for tests

Expect samples 0.0059 from the circles (the published settings: 0.039) at the published number of
steps, and shares of the circles that are off a half by at most 0.029 (5 seeds, scripts/circles.py).
"""

from ml_collections import ConfigDict

from configs import base, ddpm_circles_published


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ddpm_circles_published.get_config()
  config.network = base.get_config().network
  config.network.update(name="residual_mlp", width=128, depth=2)
  config.parameterization.update(name="edm", conditioning="log_sigma")
  config.loss = base.get_config().loss
  config.loss.update(name="edm", levels="grid", num_levels=100)
  config.optimizer.update(
    learning_rate=3e-3, decay="cosine", warmup_steps=200, clip_norm=1.0, eps=None
  )
  config.optimizer.ema_decays = (0.999,)
  config.sampler.variance = "small"
  config.evaluation.rows = ("ddim:100", "renoise:100")
  return base.variant(config, arg)
