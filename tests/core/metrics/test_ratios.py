"""Ratio of means over paired draws: its error against repeated experiments."""

import numpy as np
import pytest

from scorelab.metrics.ratios import ratio_of_means


def test_the_error_is_the_spread_of_repeated_ratios():
  """4000 experiments of 50 pairs that share most of their noise; the spread is known to 1.1 %.

  Unpaired, the error would be sqrt(1.69 + 1.44) / 0.5 = 3.5 times as large.
  """
  rng = np.random.default_rng(0)
  shared, own = rng.normal(size=(4000, 50)), rng.normal(size=(4000, 50))
  floors, values = 5 + shared, 1.2 * (5 + shared) + 0.5 * own
  ratios, errors = np.transpose([ratio_of_means(v, f) for v, f in zip(values, floors, strict=True)])
  assert ratios.mean() == pytest.approx(1.2, abs=0.001)
  assert errors.mean() == pytest.approx(ratios.std(), rel=0.04)
  assert np.mean(abs(ratios - 1.2) < errors) == pytest.approx(0.68, abs=0.03)
  unpaired = np.hypot(values.std(), 1.2 * floors.std()) / 50**0.5 / 5
  assert unpaired / ratios.std() == pytest.approx(3.54, rel=0.05)


def test_no_ratio_without_a_reference():
  assert np.isnan(ratio_of_means([1.0, 2.0], [0.0, 0.0])).all()
  assert np.isnan(ratio_of_means([1.0, np.nan], [1.0, 2.0])).all()
  ratio, error = ratio_of_means([3.0], [2.0])
  assert ratio == 1.5 and np.isnan(error)
