"""EDM on the nine modes: loss, preconditioning and sampler as published (Karras et al. 2022).

  python main.py --config=configs/edm_gmm.py              # minutes on 2 CPU cores
  python main.py --config=configs/edm_gmm.py:fast         # seconds, for tests

The paper's levels are for data of std 0.5; here it is 8, so all of them are 16 times as large.
Heun's method is evaluated at its 18 steps and at fewer and more, with and without churn.

Expect max-SW2 of 1.42 +- 0.09 with 35 evaluations and 1.32 +- 0.10 with 63 (floor 1.26 +- 0.11),
and a KL of the reverse SDE of at most 0.028 nats by Girsanov's theorem, which says nothing of the
flow. The published levels hardly visit sigma = 0.05, a sixth of a mode's width, where the relative
score error is 0.4; from 0.2 on it is below 0.003. 8 steps of Heun are too few for a grid that spans
so many levels: 70 % of the samples are off every mode, with the exact score 79 %.
"""

import math

from ml_collections import ConfigDict

from configs import base

# The published numbers are for data of std 0.5; the nine modes' is 8.
_UNIT = 16.0


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = base.get_config()
  config.schedule.update(
    name="variance_exploding", sigma_min=0.002 * _UNIT, sigma_max=80 * _UNIT, rho=7.0
  )
  config.network.update(name="residual_mlp", width=128, depth=2)
  config.parameterization.update(name="edm", conditioning="log_sigma")
  config.loss.update(name="edm", level_mean=-1.2 + math.log(_UNIT), level_std=1.2)
  config.optimizer.learning_rate = 3e-3
  config.sampler.update(name="heun", num_steps=18, grid="karras")
  config.evaluation.rows = ("heun:8", "heun:32", "heun:64:churn=20.0", "dpmpp_2m:16")
  return base.variant(config, arg)
