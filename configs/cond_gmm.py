"""The nine modes by class: a guided class-conditional network next to the exact guided score.

  python main.py --config=configs/cond_gmm.py
  python main.py --config=configs/cond_gmm.py:fast         # seconds, for tests

Rows are asked for the classes of draws from the data. Unguided ones are compared with the law of
those classes, guided ones with the tilted law p(x)^(1-w) p(x | c)^w of their scale w, which
classifier-free guidance does not sample, not even with exact scores (docs/guidance.md): `guidance`
is a part of their budget.

Expect every sample of the requested class, and without guidance an energy distance at its floor. No
result of this config is committed.
"""

from ml_collections import ConfigDict

from configs import base, ncsn_gmm


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ncsn_gmm.get_config()
  config.network.update(num_classes=9, label_dropout=0.1)
  config.evaluation.rows = (
    "dpmpp_2m:32",
    "dpmpp_2m:16:guidance=classifier:guidance_scale=1.0",
    "dpmpp_2m:16:guidance=classifier_free:guidance_scale=3.0:guidance_high=5.0",
    "dpmpp_2m:16:guidance=classifier_free:guidance_scale=3.0",
  )
  config.evaluation.metrics = (*config.evaluation.metrics, "class_accuracy")
  return base.variant(config, arg)
