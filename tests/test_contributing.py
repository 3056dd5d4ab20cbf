"""CONTRIBUTING's worked example, run as it stands there."""

import pathlib
import re

import jax
import numpy as np
import pytest

from configs import ncsn_gmm
from scorelab import training
from scorelab.experiment import build
from scorelab.losses import LOSSES


@pytest.fixture
def example():
  text = pathlib.Path("CONTRIBUTING.md").read_text()
  before = dict(LOSSES)
  exec(re.search(r"<!-- example: loss -->\n```python\n(.*?)```", text, re.S)[1], {})
  yield
  LOSSES.clear()
  LOSSES.update(before)


def test_the_example_loss_trains_by_its_name(example):
  config = ncsn_gmm.get_config("fast")
  config.loss.update(name="absolute_noise", weighting=None)
  experiment = build(config)
  chunk = training.make_chunk(experiment)
  state, metrics = chunk(training.init_state(experiment), experiment.data, length=5)
  assert np.isfinite(metrics["loss"]).all()
  # Before it has learned, the noise is predicted as 0 nearly everywhere: E |z|_1 = 2 sqrt(2 / pi).
  assert 0.3 < float(metrics["loss"][0]) < 2 * np.sqrt(2 / np.pi)
  assert not np.allclose(
    jax.tree.leaves(state.params)[0], jax.tree.leaves(training.init_state(experiment).params)[0]
  )
