"""Unadjusted Langevin dynamics with the exact score of the nine modes: 20 chains do not mix.

  python main.py --config=configs/ula_gmm.py              # seconds

Nothing is trained. From N(0, 100 I), 1000 steps of h = 0.01 (a JAX notebook's first figure): every
chain ends in the mode whose basin it began in, so the weights of the modes are those of the start,
not the target's: mode-weight TV 0.14 where exact samples have 0.026. The budget books that as
prior, and ULA's own bias (within-mode std 1.027 at this step) as discretisation.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = base.exact(base.get_config())
  config.sampler.update(name="ula", num_steps=1000, step_size=1e-2, start_std=10.0)
  config.evaluation.update(rows=("ula:1000:start_std=1.0",), score_levels=(0.0,))
  return base.variant(config, arg)
