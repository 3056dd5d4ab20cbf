"""scripts/figures.py on images: a run of seconds, from training to the last figure."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import ddpm_digits
from scorelab import evaluation, plotting, training
from scorelab.evaluation.figures import draw_run
from scorelab.experiment.build import build
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scripts import figures
from scripts.drawing import images

pytestmark = [pytest.mark.usefixtures("quick_compilation")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of three checkpoints with a network of one stage."""
  config = ddpm_digits.get_config("fast")
  config.schedule.num_levels = config.loss.num_levels = 20
  config.network.update(dim_mults=(1,), attention=("none",))
  config.training.update(num_steps=6, log_every=2, checkpoint_every=2, keep_every=2)
  config.training.update(num_validation=16)
  config.evaluation.metrics = ("frechet", "kernel_distance", "class_imbalance")
  experiment = build(config)
  workdir = open_workdir(tmp_path_factory.mktemp("run"), experiment.config, {})
  state = training.train(experiment, workdir, StopFlag())
  params = training.evaluated_params(state)
  evaluation.evaluate(experiment, params, workdir, StopFlag())
  draw_run(experiment, params, workdir, StopFlag())
  workdir.done.touch()
  return workdir


def test_a_run_leaves_grids_and_arrays(finished):
  with np.load(finished.samples) as arrays:
    assert arrays["dpmpp_2m-4"].shape == (20, 8, 8, 1)
    assert arrays["reference"].shape == (450, 8, 8, 1)
  assert (finished.figures / "samples.png").exists()
  metrics = json.loads(finished.evaluation.read_text())["rows"][0]["metrics"]
  assert metrics["frechet"]["value"] > 5 * metrics["frechet"]["floor"]  # nothing was learned


def test_draws_everything(finished, tmp_path, monkeypatch):
  short = {**images.FIGURES, "training": lambda source: images.training_history(source, 30)}
  monkeypatch.setitem(figures.FIGURES, "ddpm_digits", short)
  arguments = ["ddpm_digits", "--workdir", str(finished.path), "--out", str(tmp_path)]
  assert figures.main(arguments) == 0
  for name in (*images.FIGURES, "distance"):
    path = tmp_path / f"{name}.png"
    assert 3000 < path.stat().st_size < 300_000, name
    assert "figures.py ddpm_digits" in Image.open(path).info["Description"]
  steps = [row["step"] for row in plotting.read_csv(tmp_path / "training.csv")]
  assert steps == [2, 4, 6]
  quantiles = {row["images"]: row for row in plotting.read_csv(tmp_path / "neighbours.csv")}
  # Test digits are nearer to training digits than noise is.
  assert quantiles["test images"]["quantile_1"] < quantiles["dpmpp_2m-4"]["quantile_0.5"]
