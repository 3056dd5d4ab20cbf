"""A score-SDE tutorial on 8 by 8 digits, as it was published.

  python main.py --config=configs/sbgm_digits_published.py
  python main.py --config=configs/sbgm_digits_published.py:fast         # seconds, for tests

Expect a Frechet distance of 25 in pixels (a run of the tutorial's own code: about 18), and 28
without the tanh that samples go through.
"""

from ml_collections import ConfigDict

from configs import base
from configs.presets.digits import digits


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = digits()
  config.target.update(scaling="bins", dequantise=False)
  config.schedule.update(name="sigma_power", base=1.01)
  config.parameterization.update(name="score", conditioning="time")
  config.network = base.get_config().network
  config.network.update(name="additive_mlp", output_limit=3.0)
  # sigma^2 on the error of the noise is 1 on that of x0: once more sigma^2 than 'sigma_squared'.
  config.loss.update(name="ncsn", levels="uniform_time", weighting="uniform")
  config.optimizer.update(name="adamax", learning_rate=1e-4, decay="constant", warmup_steps=0)
  config.optimizer.update(clip_norm=0.0, ema_decays=(), weight_decay=None)
  # 38 steps are an epoch: a validation every 25, 50 epochs of patience, 2,000 at most.
  config.training.update(num_steps=76_000, batch_size=32)
  config.training.update(log_every=950, checkpoint_every=950, patience=2)
  # 20 times from 1 to 1e-5, as published: 19 steps.
  config.sampler = base.get_config().sampler
  config.sampler.update(name="euler_time", num_steps=19, grid="uniform", to_data=False)
  config.sampler.update(unsquared=True, at_arrival=True, squash=True)
  config.evaluation.checkpoint = "best"
  config.evaluation.rows = (
    "euler_time:19:squash=False",
    "euler_time:19:unsquared=False:at_arrival=False:squash=False",
    "heun:25",
  )
  return base.variant(config, arg)
