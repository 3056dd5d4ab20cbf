"""scripts/pareto.py: its cells, what it keeps and goes on from, and what it makes of them."""

import json

import numpy as np
import pytest

from scorelab.plotting import read_csv, write_csv
from scorelab.runs.signals import Preempted
from scorelab.samplers import SAMPLERS
from scripts import pareto, pareto_study
from scripts.drawing import pareto as drawing
from scripts.outputs import REFERENCE

PROTOCOL = pareto.Protocol()


def test_cells_are_the_most_steps_within_the_budget():
  cells = {e.label: list(pareto.cells_of(e, PROTOCOL)) for e in pareto.ENTRIES}
  assert [c.num_steps for c in cells["ddim"]] == list(PROTOCOL.budgets)
  assert [(c.budget, c.num_steps) for c in cells["heun"]][:4] == [(4, 2), (5, 3), (8, 4), (10, 5)]
  assert [(c.budget, c.num_steps) for c in cells["rk4"]][:2] == [(5, 2), (10, 3)]
  assert [c.num_steps for c in cells["predictor_corrector"]][:2] == [2, 3]
  assert len(cells["adaptive_ode"]) == len(PROTOCOL.tolerances)
  names = [c.name for of_entry in cells.values() for c in of_entry]
  assert len(set(names)) == len(names)


@pytest.fixture
def one_target(monkeypatch):
  """The nine modes alone, with a network that hardly trains."""
  monkeypatch.setattr(pareto, "TARGETS", {"nine_modes": pareto.TARGETS["nine_modes"]})
  configure = pareto_study.configure

  def small(target, fast):
    config = configure(target, fast)
    config.network.update(width=16, depth=1, num_features=8)
    config.training.update(num_steps=2, log_every=1, checkpoint_every=2, num_validation=32)
    return config

  monkeypatch.setattr(pareto_study, "configure", small)
  return ["--fast", "--samplers", "heun"]


@pytest.mark.slow
def test_the_table_and_going_on(one_target, tmp_path, monkeypatch, capsys):
  arguments = [*one_target, "--runs", str(tmp_path)]
  measure, seen = pareto.measure_cell, []

  def stopped_once(run, subject, score, cell):
    seen.append((score, cell.name))
    if len(seen) == 3:
      raise Preempted
    measure(run, subject, score, cell)

  monkeypatch.setattr(pareto, "measure_cell", stopped_once)
  assert pareto.main([*arguments, "--report"]) == 1
  assert "nothing has been measured yet" in capsys.readouterr().err
  with pytest.raises(Preempted):
    pareto.main(arguments)
  assert pareto.main(arguments) == 0
  assert len(seen) == len(set(seen)) + 1  # the one that was stopped is begun again
  table = read_csv(tmp_path / "pareto.csv")
  found = {(row["score"], row["label"], row["nfe"], row["num_keys"]) for row in table}
  # Two budgets, both measured again with the headline's keys; of two scores.
  for score in ("exact", "learned"):
    assert {(score, "heun", nfe, keys) for nfe in (5, 7) for keys in (2, 3)} <= found
  assert len(found) == len(table) == 8
  for row in table:
    line = row["max_sliced_wasserstein"], row["max_sliced_wasserstein_floor"]
    assert row["max_sliced_wasserstein_over_floor"] == pytest.approx(line[0] / line[1])
    # What the count of steps says is what the sampler itself counted.
    assert row["nfe"] == 2 * row["num_steps"] - 1
  assert (tmp_path / "pareto.png").exists()
  rows = [json.loads(line) for line in (tmp_path / "nine_modes.jsonl").open()]
  grids = {(row["score"], row["cell"]): row["grid"] for row in rows if row["score"] != "floor"}
  for (_, cell), grid in grids.items():
    assert grid == grids["exact", cell]  # the learned score takes the exact one's
  again = len(seen)
  assert pareto.main(arguments) == 0 and len(seen) == again


def made_up(score, cell, nfe, values, **more):
  row = {"target": "ring", "score": score, "cell": cell, "label": cell.split()[0], "nfe": nfe}
  row |= {"num_steps": nfe, "tolerance": None, "grid": "karras to 0.5"}
  return row | {"num_keys": len(values), "values": {"max_sliced_wasserstein": values}} | more


def test_lines_by_hand():
  rows = [
    made_up("floor", "floor", 0, [1.0, 3.0]),
    made_up("floor", "floor", 0, [1.0, 2.0, 3.0]),
    made_up("exact", "ddim 4", 4, [4.0, 8.0]),
    made_up("exact", "ddim 8", 8, [2.0, 4.0]),
    made_up("exact", "ddim 8", 8, [1.1, 2.1, 3.1]),
    made_up("exact", "heun 8", 7, [None, 4.0]),
    made_up("exact", "unipc 8", 8, [2.1, 4.5]),
    made_up("exact", "adaptive 0.1", 16, [2.5, 5.0], tolerance=0.1),
    made_up("learned", "adaptive 0.001", 50, [2.1, 4.3], tolerance=0.001),
    made_up("exact", "adaptive 0.001", 40, [2.0, 4.0], tolerance=0.001),
  ]
  lines = drawing.summarise(rows)
  found = [(line["nfe"], line["num_keys"]) for line in lines]
  assert found == [(4, 2), (8, 2), (8, 3), (7, 2), (8, 2), (16, 2), (50, 2), (40, 2)]
  metric = "max_sliced_wasserstein"
  assert lines[0][metric] == 6 and lines[0][f"{metric}_over_floor"] == 3
  assert lines[0][f"{metric}_sem"] == pytest.approx(2)  # |8 - 4| / 2
  assert lines[0][f"{metric}_gap_sem"] == pytest.approx(1)  # |5 - 3| / 2
  assert lines[2][f"{metric}_over_floor"] == pytest.approx(1.05)
  assert lines[2][f"{metric}_gap_sem"] == pytest.approx(0, abs=1e-12)
  assert np.isnan(lines[3][metric])
  assert lines[0]["over_finest"] == pytest.approx(2)  # 6 / 3
  assert lines[4]["beyond"] == pytest.approx(0)  # (2.1 + 4.5) / 2 - 1.1 * (2 + 4) / 2
  assert lines[4]["beyond_sem"] == pytest.approx(0.1)  # |(4.5 - 4.4) - (2.1 - 2.2)| / 2
  assert np.isnan(lines[2]["over_finest"])  # three keys, and the finest has two
  # By the mean alone; and where both keys are below 1.1 of theirs, without a star.
  lines[4]["beyond"] = -1e-9
  _, _, ddim, heun, unipc, adaptive = drawing.fewest(lines).splitlines()
  assert ddim == "| `ddim` | 8 |  |" and heun == "| `heun` | - |  |"
  assert unipc == "| `unipc` | 8* |  |" and adaptive == "| `adaptive` | 40 | 50 |"
  (*_, few) = drawing.few_evaluations(lines, 2).splitlines()
  assert few.startswith("| exact | `ddim` | 8 | karras to 0.5 | 2.100 ± 0.577 | 1.05 ± 0.01 |")
  # Samplers alone, without the finest solution to compare with: no number, and no error.
  alone = drawing.summarise([made_up("exact", "ddim 8", 8, [2.0, 4.0]), rows[0]])
  for name in (metric, "energy_distance"):
    assert drawing.fewest(alone, name).splitlines()[2] == "| `ddim` | - |"
  panel, _ = drawing.panels(drawing.summarise(rows))
  assert [curve.label for curve in panel.curves] == ["ddim", "heun", "unipc", "adaptive"]
  np.testing.assert_array_equal(panel.curves[0].nfe, [4, 8])


def test_the_committed_table_keeps_the_lines_of_other_targets(tmp_path):
  """What is measured takes the place of its target's lines; all others are written as before."""
  committed = REFERENCE / "pareto" / "pareto.csv"
  (tmp_path / "pareto.csv").write_bytes(committed.read_bytes())
  others = drawing.other_rows(tmp_path, ["grid25_80"])
  write_csv(tmp_path / "others.csv", others, "python scripts/pareto.py")
  kept = [text for text in committed.read_text().splitlines() if "grid25_80" not in text]
  assert (tmp_path / "others.csv").read_text().splitlines() == kept
  assert 0 < len(others) == len(kept) - 2 < len(read_csv(committed))
  assert drawing.other_rows(tmp_path / "nowhere", []) == []


def test_a_budget_counts_if_all_larger_ones_hold_too():
  """First crossings of a noisy curve do not: at 5 it holds, at 6 it does not, from 8 on it does."""

  def line(nfe, beyond, energy, **more):
    known = {"target": "ring", "score": "exact", "label": "a", "num_keys": 2, "tolerance": np.nan}
    numbers = {"nfe": nfe, "beyond": beyond, "beyond_sem": 0.1, "energy_distance": energy}
    return known | numbers | more

  curve = [(4, 1.0, 9.0), (5, -1.0, 1.05), (6, 0.5, 1.2), (8, -0.5, 1.05), (16, -0.5, 1.08)]
  finest = line(30, -1.0, 1.0, label="adaptive", tolerance=0.001)
  lines = [*(line(*numbers) for numbers in curve), finest]
  assert drawing.fewest(lines).splitlines()[2:] == ["| `a` | 8 |", "| `adaptive` | 30 |"]
  energy = drawing.fewest(lines, "energy_distance").splitlines()
  assert energy[2] == "| `a` | 8 |"  # 1.1 times the finest solution's 1.0
  lines[4]["beyond"] = -0.15  # at 16, less than two errors of 0.1 to spare: 8 is in doubt
  assert drawing.fewest(lines).splitlines()[2] == "| `a` | 8* |"
  lines[4]["beyond"] = 0.15
  assert drawing.fewest(lines).splitlines()[2] == "| `a` | - |"


def test_samplers_of_the_table_are_known():
  for entry in pareto.ENTRIES:
    assert entry.sampler in SAMPLERS or entry.sampler == "adaptive_ode"
