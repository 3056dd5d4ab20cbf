"""Conditional flow matching on two interleaving half-circles, whose exact score is not known.

  python main.py --config=configs/flow_moons.py              # minutes on 1 CPU core
  python main.py --config=configs/flow_moons.py:fast         # seconds, for tests

A network conditioned on the time t learns the velocity from data to noise on straight paths, with
noise drawn independently of the points; solvers of its ODE go from pure noise, t = 1, to the data.
Samples are compared with exact ones: a metric has a value and a floor, and no further budget.

Expect Heun's 31 evaluations, 32 of dpmpp_2m and 128 of Euler at the floor of every metric (max-SW2
0.034 to 0.037 +- 0.003, floor 0.037), and 32 of Euler above it (0.049 +- 0.004).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = base.get_config()
  config.target.name = "moons"
  config.schedule.name = "linear_flow"
  config.parameterization.update(name="flow", conditioning="time")
  config.network.update(name="residual_mlp", width=128, depth=2)
  config.loss.name = "flow_matching"
  config.optimizer.learning_rate = 3e-3
  config.training.num_steps = 5000
  config.sampler.update(name="heun", num_steps=16, grid="uniform")
  config.evaluation.rows = ("dpmpp_2m:32", "euler:32", "euler:128")
  config.evaluation.metrics = ("max_sliced_wasserstein", "sliced_wasserstein", "energy_distance")
  return base.variant(config, arg)
