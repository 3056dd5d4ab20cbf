"""The figures of two circles, on a run of seconds; and the table of seeds, on made-up runs."""

import functools

import numpy as np
import pytest
from PIL import Image

from configs import ddpm_circles_published
from scorelab import plotting
from scorelab.experiment.build import build
from scorelab.plotting.circles import kernel_map
from scorelab.runs.files import append_jsonl, write_json
from scorelab.runs.workdir import open_workdir
from scripts import circles as study
from scripts import figures
from scripts.drawing import circles


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of a tiny published config as it is left; nothing was trained, the samples are noise."""
  config = ddpm_circles_published.get_config("fast")
  config.network.update(widths=(8,), norms=(False,))
  config.training.update(num_steps=0, num_validation=4)
  config.evaluation.update(rows=(), metrics=("support_distance",))
  config.sampler.num_steps = 5
  experiment = build(config)
  workdir = open_workdir(tmp_path_factory.mktemp("run"), experiment.config, {})
  for step in (5000, 10_000):
    append_jsonl(workdir.metrics, {"step": step, "loss": 2000 / step})
  noise = np.random.default_rng(0).normal(size=(50, 2))
  exact = np.asarray(experiment.target.sample(experiment.root, 50))
  np.savez(workdir.samples, exact=exact, reference=exact, **{"ancestral-5": noise})
  row = {"label": "ancestral-5", "sampler": "ancestral", "metrics": {}}
  write_json(workdir.evaluation, {"rows": [row]})
  workdir.done.touch()
  return workdir.path


def draw(name, path, out, *options):
  arguments = [name, "--workdir", str(path), "--out", str(out), *options]
  assert figures.main(arguments) == 0


def test_draws_everything(finished, tmp_path, monkeypatch):
  film = functools.partial(circles.film, num_points=50)
  monkeypatch.setitem(circles.PUBLISHED_FIGURES, "film", film)
  draw("ddpm_circles_published", finished, tmp_path)
  pictures = {"signal_and_noise", "loss", "heat"}
  assert {p.stem for p in tmp_path.glob("*.png")} == pictures
  for file in tmp_path.glob("*.png"):
    assert 3000 < file.stat().st_size < 300_000
    assert Image.open(file).info["Description"].startswith("python scripts/figures.py ddpm_circles")
  assert 1000 < (tmp_path / "film.mp4").stat().st_size < 1_500_000
  assert {p.stem for p in tmp_path.glob("*.csv")} == pictures | {"film"}
  heat = plotting.read_csv(tmp_path / "heat.csv")
  assert heat[0]["number"] == 20 and heat[0]["first_circle_share"] == 0.5
  assert heat[0]["distance_to_circles"] < 1e-6 and heat[1]["distance_to_circles"] < 1e-6
  # The exact prediction of the 20 points, by quadrature: 0.149 over the coordinates.
  assert plotting.read_csv(tmp_path / "loss.csv")[0]["least"] == pytest.approx(0.149, rel=0.02)


def test_memorisation(finished, tmp_path, monkeypatch):
  """The optimum's samples are training points, a gap's half from those held out; draws are not."""
  few = functools.partial(circles.memorisation, num_samples=500, num_levels=3)
  monkeypatch.setitem(circles.MEMORISATION_FIGURES, "memorisation", few)
  draw("memorisation_circles", finished, tmp_path, "--only", "memorisation")
  rows = {r["samples"]: r for r in plotting.read_csv(tmp_path / "memorisation.csv")}
  optimum, dense = rows["memorising optimum"], rows["draws of the circles"]
  assert optimum["mean_distance_to_train"] < 0.02  # five steps only
  assert optimum["mean_distance_to_held_out"] == pytest.approx(np.sin(np.pi / 20), abs=0.02)
  for label in ("train", "held_out"):
    assert dense[f"mean_distance_to_{label}"] == pytest.approx(0.0784, rel=0.12)
  assert (tmp_path / "memorisation.png").stat().st_size < 300_000
  errors = plotting.read_csv(tmp_path / "memorisation_by_level.csv")
  assert all(e["error_against_points"] > 0 and e["error_against_circles"] > 0 for e in errors)


def test_kernel_map_is_the_sum_of_kernels():
  points = np.random.default_rng(0).normal(size=(30, 2))
  heat = kernel_map(points, num=8, rate=2.0)
  centres = np.linspace(-1.75, 1.75, 8)
  known = [[np.exp(-2 * ((points - [a, b]) ** 2).sum(1)).sum() for a in centres] for b in centres]
  np.testing.assert_allclose(heat, known / np.max(known), 1e-9)


def test_table_of_seeds(tmp_path):
  """Three seeds at 0.5, 0.6 and 0.7, where two published keys had 0.42 and 0.69."""
  runs = []
  for seed in range(3):
    run = open_workdir(tmp_path / str(seed), {"seed": seed}, {})
    row = {"sampler": "ddim", "num_steps": 1, "options": {}, "nfe": 1}
    row["metrics"] = {name: {"value": 0.5 + seed / 10} for name in study.METRICS}
    write_json(run.evaluation, {"rows": [row]})
    append_jsonl(run.metrics, {"step": 5000, "loss": 2.98e-3})
    runs.append(run)
  first, distance, tv = study.tabulate("one_step_circles", runs)
  assert first["ratio"] == pytest.approx(1.0) and first["errors_apart"] is None
  assert distance["value"] == pytest.approx(0.6)
  apart = (0.6 - 0.555) / np.hypot(0.1 / 3**0.5, 0.135)
  assert distance["errors_apart"] == pytest.approx(apart)
  assert tv["published"] is None
