"""CIFAR-10 by class: the network of ddpm_cifar10, class-conditional, classifier-free guidance.

  python main.py --config=configs/cond_cifar10.py
  python main.py --config=configs/cond_cifar10.py:fast

Images come as there; of a folder, --config.target.path=FOLDER, each folder in it is a class. Other
data sets: network.num_classes, and target.label_column where classes are not in 'label'. For hours
on a GPU; nothing here was measured.
"""

from ml_collections import ConfigDict

from configs import ddpm_cifar10


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' makes it a run of seconds."""
  config = ddpm_cifar10.get_config(arg)
  config.target.labelled = True
  config.network.update(num_classes=10, label_dropout=0.1)
  config.sampler.update(guidance="classifier_free", guidance_scale=1.5)
  config.evaluation.labels = "uniform"
  # Features of a classifier, which knows the classes, in the place of those without labels.
  metrics = config.evaluation.metrics
  config.evaluation.metrics = tuple(name.replace("rotations", "classifier") for name in metrics)
  return config
