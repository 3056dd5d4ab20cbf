"""The modes of grid25 given one observation: posterior methods next to the exact posterior.

  python main.py --config=configs/posterior_gmm.py
  python main.py --config=configs/posterior_gmm.py:fast      # seconds, for tests
  python main.py --config=configs/posterior_gmm.py --config.observation.rank=4

Nothing is trained. The posterior is a mixture, known in any dimension (target.dim; sigma_max has to
grow with its root, as modes are further apart). The budget says what a method adds to the exact
posterior score on the same grid: `likelihood` is its approximate likelihood with four times as many
particles, `particles` what the fewer ones add. Expect the twisted filter nearest to the floor. No
result of this config is committed: docs/posteriors.md has the study.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = base.exact(base.get_config())
  config.target.update(name="grid25", dim=8)
  config.schedule.update(name="variance_exploding", sigma_min=0.02, sigma_max=200.0)
  config.observation.update(name="random_matrix", rank=2, noise_std=0.1)
  config.sampler.update(name="ancestral", num_steps=100, grid="uniform_log_snr", posterior="tmpd")
  config.evaluation.update(num_keys=4, num_samples=500, batch_size=100, num_reference=2000)
  config.evaluation.rows = (
    "ancestral:100:posterior=pigdm",
    "ancestral:100:posterior=dps",
    "mcgdiff:100:particles=32",
    "tds:100:particles=32:twist=tmpd:data_std=1.0",
  )
  config.evaluation.metrics = (
    *("sliced_wasserstein:p=1", "mode_weight_tv", "energy_distance", "mean_shift"),
    *("covariance_error", "interval_error", "measurement_misfit"),
  )
  config = base.variant(config, arg)
  if arg == "fast":
    config.sampler.num_steps = 20
    config.evaluation.update(num_samples=100, rows=("tds:20:particles=4:twist=tmpd:data_std=1.0",))
  return config
