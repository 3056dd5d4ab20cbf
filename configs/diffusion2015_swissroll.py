"""Diffusion as of 2015 on a swiss roll, corrected.

python main.py --config=configs/diffusion2015_swissroll.py
python main.py --config=configs/diffusion2015_swissroll.py:fast    # seconds, for tests
"""

from ml_collections import ConfigDict

from configs import base

NUM_STEPS = 40  # T


def chain(config: ConfigDict) -> ConfigDict:
  """The config with the chain of 2015, its network and its sampler."""
  config.target.name = "swiss_roll"
  config.schedule.update(name="sigmoid_betas", num_levels=NUM_STEPS)
  config.network.update(name="heads_mlp", widths=(64, 64), head_widths=(64,), num_heads=NUM_STEPS)
  config.parameterization.update(
    name="reverse_step",
    conditioning="time_index",
    num_train_steps=NUM_STEPS,
    learned_variance=True,
  )
  config.loss.update(name="stepwise_kl", num_levels=NUM_STEPS, variance="learned")
  config.optimizer.name = "adam_by_head"
  config.sampler.update(
    name="ancestral", num_steps=NUM_STEPS - 1, grid="uniform", to_data=False, variance="learned"
  )
  config.evaluation.update(
    rows=(),
    num_samples=5000,
    metrics=("sliced_wasserstein", "max_sliced_wasserstein", "energy_distance"),
  )
  return config


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = chain(base.get_config())
  config.parameterization.relative = True
  config.optimizer.learning_rate = 1e-2
  config.training.update(
    num_steps=8000, batch_size=32 * (NUM_STEPS - 1), checkpoint_every=500, keep_every=500
  )
  return base.variant(config, arg)
