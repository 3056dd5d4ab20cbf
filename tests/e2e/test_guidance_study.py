"""scripts/guidance.py: its rows, its Gaussian curve, and its figures at small size."""

import numpy as np
import pytest
from scipy.stats import foldnorm

from scorelab.metrics import energy_distance
from scorelab.plotting import read_csv
from scripts import guidance, outputs


def test_methods_without_particles_take_at_most_64_evaluations():
  for method in guidance.METHODS:
    calls = 2 if method.sampler == "predictor_corrector" else 1
    assert calls * method.num_steps <= 64


def test_the_fast_study(tmp_path, capsys):
  """Two methods on two modes: the tilted one is nearer, and the files are there."""
  assert guidance.main(["--fast", "--out", str(tmp_path)]) == 0
  rows = read_csv(tmp_path / "guidance.csv")
  distances = {(row["method"], row["scale"]): row["excess"] for row in rows}
  assert len(rows) == 4 == len(capsys.readouterr().out.splitlines())
  for scale in guidance.SCALES[1:3]:
    assert distances["tilted", scale] < distances["classifier-free, flow", scale]
  for row in read_csv(tmp_path / "variances.csv"):
    error = abs(row["sde"] - row["tilted"]) + 4 * row["particles_sem"]  # weights gain on the SDE
    assert abs(row["particles"] - row["tilted"]) < error
    assert row["flow"] <= row["sde"] <= row["tilted"]
  for name in ("guidance", "variances", "maps"):
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_the_distance_is_that_of_two_laws():
  """Of N(0, 1) and N(1, 1): 2 E|x - y| - 2 E|x - x'|, within 4 of the jackknife's errors."""
  rng = np.random.default_rng(0)
  y = rng.normal(size=(8, 500, 1))
  exact = guidance.ExactSets(y, guidance.mean_distances(y, y), 0.0)
  for shift in (0.0, 1.0):
    x = shift + rng.normal(size=(8, 500, 1))
    distance, sem = guidance.excess(x, exact)
    every = energy_distance(None, x.reshape(-1), y.reshape(-1), unbiased=True)
    np.testing.assert_allclose(distance, every, rtol=1e-9)
    apart = foldnorm(shift / 2**0.5, scale=2**0.5).mean() - 2 / np.pi**0.5
    assert abs(distance - 2 * apart) < 4 * sem < 0.2


def test_tilted_guidance_is_within_a_tenth_of_the_floor_on_the_line():
  """By quadrature, at every scale; and one node is not from scale 3 on."""
  *_, one_node, own = guidance.METHODS
  for scale in guidance.SCALES:
    assert 1 <= guidance.on_the_line(own, scale)["over_floor"] < 1.1
  assert guidance.on_the_line(one_node, 3.0)["over_floor"] > 2
  assert 1 < guidance.of_one_mode(own) < 1.1


def test_the_ring_by_quadrature():
  """On fewer nodes than the study has, as committed; all guidance is none at scale 1."""
  committed = read_csv(outputs.REFERENCE / "guidance/exact.csv")
  flow, one_node = guidance.METHODS[0], guidance.METHODS[-2]
  for method, scale in ((flow, 1.0), (flow, 3.0), (one_node, 1.0)):
    found = guidance.in_the_plane(method, scale, num=33)
    (row,) = (row for row in committed if row | {"over_floor": 0} == found | {"over_floor": 0})
    assert found["over_floor"] == pytest.approx(row["over_floor"], rel=1e-3)


def test_committed_numbers_without_noise():
  """Those of tilted guidance are within a tenth of the floor; all agree with the sampled ones."""
  folder = outputs.REFERENCE / "guidance"
  exact = {
    (row["target"], row["scale"], row["method"]): row["over_floor"]
    for row in read_csv(folder / "exact.csv")
  }
  own = {(target, scale): over for (target, scale, name), over in exact.items() if name == "tilted"}
  assert set(own) == {(target, scale) for target in guidance.TARGETS for scale in guidance.SCALES}
  assert all(1 <= over < 1.1 for over in own.values())
  for row in read_csv(folder / "guidance.csv"):
    over = exact.get((row["target"], row["scale"], row["method"]))
    if over is not None:
      assert abs(row["over_floor"] - over) < 4 * row["over_floor_sem"]


def test_clouds_are_of_the_class():
  found = guidance.clouds((3.0,), 50)
  assert len(found) == 4
  for x in found.values():
    assert np.abs(np.median(x, axis=0) + 10).max() < 1
