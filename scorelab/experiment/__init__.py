"""An experiment: what a config describes, built and checked."""

from scorelab.experiment.build import assemble, build
from scorelab.experiment.keys import Stream, stream_key
from scorelab.experiment.spec import Evaluation, Experiment, LikelihoodProtocol

__all__ = [
  "Evaluation",
  "Experiment",
  "LikelihoodProtocol",
  "Stream",
  "assemble",
  "build",
  "stream_key",
]
