"""NCSN on the nine-mode mixture, our best settings.

  python main.py --config=configs/ncsn_gmm.py              # minutes on 2 CPU cores
  python main.py --config=configs/ncsn_gmm.py:fast         # seconds, for tests

Expect max-SW2 of 1.40 +- 0.04 and an energy distance of 0.0107 +- 0.0008 at 16 NFE of dpmpp_2m
(floors 1.29 and 0.0082); mode-weight TV of 0.0267 and 0.54 % of the samples off every mode at 32;
relative score error of at most 0.0035 at every level from 0.05 to 80 (90 keys).

  python main.py --config=configs/ncsn_gmm.py --mode=eval --config.evaluation.likelihood_points=1000

evaluates the run again with its held-out likelihood: KL(data || flow) was 0.013 +- 0.006 nats.
Girsanov's bound on the KL of another law, the reverse SDE's, was 0.0077, and the variational bound,
of a third one, 0.62.

Mends the noise-conditional network of a published notebook, whose settings are in
ncsn_gmm_published.py: the largest level is 80 rather than 10 (the data's std is 8), the output is
linear, the network is preconditioned as in EDM, levels are log-uniform and stratified, the learning
rate warms up and decays, and an average of the parameters is evaluated. Every step draws new
training points.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = base.get_config()
  config.schedule.update(name="variance_exploding", sigma_min=0.02, sigma_max=80.0, rho=7.0)
  config.network.update(name="residual_mlp", width=192, depth=2)
  config.loss.weighting = "edm"
  config.optimizer.learning_rate = 3e-3
  config.sampler.update(grid="uniform_log_snr", sigma_min=0.05)
  return base.variant(config, arg)


def sweep() -> dict[str, Any]:
  """DDIM from deterministic to ancestral, at four lengths: scorelab-sweep runs it."""
  steps, eta = [8, 16, 32, 64], [0.0, 0.5, 1.0]
  fixed = {"sampler.name": "ddim", "evaluation.rows": ()}
  return {**fixed, "sampler.num_steps": steps, "sampler.eta": eta}
