"""scripts/guidance.py: its rows, its Gaussian curve, and its figures at small size."""

import numpy as np

from scorelab.plotting import read_csv
from scripts import guidance


def test_methods_without_particles_take_at_most_64_evaluations():
  for method in guidance.METHODS:
    calls = 2 if method.sampler == "predictor_corrector" else 1
    assert calls * method.num_steps <= 64


def test_the_fast_study(tmp_path, capsys):
  """Two methods on two modes: the tilted one is nearer, and the files are there."""
  assert guidance.main(["--fast", "--out", str(tmp_path)]) == 0
  rows = read_csv(tmp_path / "guidance.csv")
  distances = {(row["method"], row["scale"]): row["energy_distance"] for row in rows}
  assert len(rows) == 4 == len(capsys.readouterr().out.splitlines())
  for scale in guidance.SCALES[1:3]:
    assert distances["tilted", scale] < distances["classifier-free, flow", scale]
  for row in read_csv(tmp_path / "variances.csv"):
    error = abs(row["sde"] - row["tilted"]) + 4 * row["particles_sem"]  # weights gain on the SDE
    assert abs(row["particles"] - row["tilted"]) < error
    assert row["flow"] <= row["sde"] <= row["tilted"]
  for name in ("guidance", "variances", "maps"):
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_clouds_are_of_the_class():
  found = guidance.clouds((3.0,), 50)
  assert len(found) == 4
  for x in found.values():
    assert np.abs(np.median(x, axis=0) + 10).max() < 1
