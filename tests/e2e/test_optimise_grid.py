"""scripts/optimise_grid.py: what it says of its gains."""

import pytest

from scripts.optimise_grid import NEW, least_gain


def test_a_grid_that_was_not_left_has_no_gain():
  row = {"on": "ring", "measure": "distance", "mean": 1.0}
  better = {**row, "grid": "karras 3", "gain": 0.6, "gain_sem": 0.2}
  same = {**row, "grid": "karras 7", "gain": 0.0, "gain_sem": 0.0}
  new = {**row, "grid": NEW, "gain": 0.0, "gain_sem": 0.0}
  assert least_gain([better, new], "ring", "distance") == pytest.approx(3)
  assert least_gain([better, same, new], "ring", "distance") == 0
