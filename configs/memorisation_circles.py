"""Memorisation of the twenty training points by a network.

  python main.py --config=configs/memorisation_circles.py
  python main.py --config=configs/memorisation_circles.py:fast    # seconds, for tests

Expect samples 0.062 from their nearest training point, 64 % of them three times nearer to one than
to any other; the exact score of the finite set gives 0 and 100 %.
"""

from ml_collections import ConfigDict

from configs import base, ddpm_circles


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ddpm_circles.get_config()
  config.target.name = "two_circles_points"
  config.evaluation.update(
    rows=("ddim:100", "renoise:100"),
    reference="train",
    metrics=("nearest_point_distance", "memorised_share", "energy_distance"),
  )
  return base.variant(config, arg)
