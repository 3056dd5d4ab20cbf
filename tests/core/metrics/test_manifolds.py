"""Precision and recall of laws for which both are known."""

import numpy as np
import pytest

from scorelab.metrics import Reference, precision, recall

RNG = np.random.default_rng(0)


def test_half_an_interval_is_precise_and_misses_half():
  """4000 points each: balls leave 1 % of the interval out, and reach 0.1 % beyond its end."""
  whole, half = RNG.uniform(0, 1, 4000), RNG.uniform(0, 0.5, 4000)
  assert precision(None, half, whole) > 0.97
  np.testing.assert_allclose(recall(None, half, Reference(whole)), 0.5, atol=0.025)
  np.testing.assert_allclose(precision(None, whole, Reference(half)), 0.5, atol=0.025)
  assert recall(None, whole, half) > 0.97


def test_a_missed_mode_costs_recall_and_a_stray_one_precision():
  """Far clusters: counts by hand."""
  a, b = RNG.normal(size=(2, 60, 5)) + np.array([0.0, 100.0])[:, None, None]
  both = np.concatenate([a, b])
  near, far = a[:30] + 1e-9, np.full((10, 5), 1e3) + RNG.normal(size=(10, 5))
  assert recall(None, np.concatenate([near, far]), both) <= 0.5
  assert precision(None, np.concatenate([near, far]), both) == 0.75
  assert recall(None, both + 1e-9, both) == precision(None, both + 1e-9, both) == 1


def test_radii_by_hand():
  """On a line: the second neighbours of 0, 1, 3 and 7 are 3, 2, 3 and 6 away."""
  y = np.array([0.0, 1.0, 3.0, 7.0])
  inside, outside = [-3.0, 13.0, 10.0], [-3.1, 13.1]
  for points, share in ((inside, 1), (outside, 0), (inside + outside, 0.6)):
    filled = np.array(points + points)  # k is below the size of each set
    assert precision(None, filled, y, num_neighbours=2 if len(filled) > 2 else 1) == share


def test_refusals():
  x = RNG.normal(size=(3, 2))
  with pytest.raises(ValueError, match="num_neighbours = 3 of 3 samples and 9 points"):
    precision(None, x, RNG.normal(size=(9, 2)))
  assert np.isnan(recall(None, np.array([[0.0], [np.nan], [1.0]]), [0, 1, 2], num_neighbours=1))
