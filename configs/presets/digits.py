"""8 by 8 digits with a dense network: what the processes on them have in common."""

from ml_collections import ConfigDict

from configs import base


def digits() -> ConfigDict:
  """8 by 8 digits, dequantised: all settings but those of the process.

  The loss of held-out digits, each seen at 20 levels, is least after about 2200 steps; from there
  the samples' classes get surer, at some more memory of the 1212 training digits. Weight decay puts
  that off and lowers both. What is measured, against the 450 test digits, is the last step.
  """
  config = base.get_config()
  config.target.update(name="digits", dequantise=True)
  config.parameterization.update(name="edm", conditioning="log_sigma")
  config.network.update(name="mlp", widths=(1024,) * 3, norms=(False,) * 3, activation="silu")
  config.loss.name = "edm"
  config.optimizer.update(ema_decays=(0.998,), weight_decay=0.3)
  config.training.update(num_steps=4000, batch_size=128, checkpoint_every=200)
  config.training.validation_repeats = 20
  config.sampler.update(name="heun", num_steps=16, grid="karras", sigma_min=0.02)
  config.evaluation.update(reference="test", num_keys=5)
  config.evaluation.update(rows=("dpmpp_2m:32", "heun:32:churn=20.0"))
  config.evaluation.metrics = ("frechet", "confident_share", "class_count", "energy_distance")
  return config
