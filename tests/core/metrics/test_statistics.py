"""Mean and standard error: against SciPy, and single values."""

import numpy as np
import pytest
import scipy.stats

from scorelab.metrics.statistics import mean_and_sem


@pytest.mark.parametrize("number", [2, 5, 1000])
def test_it_is_scipys(number):
  values = np.random.default_rng(0).normal(3, 2, number)
  mean, sem = mean_and_sem(list(values))
  assert mean == pytest.approx(np.sum(values) / number, rel=1e-12)
  assert sem == pytest.approx(scipy.stats.sem(values), rel=1e-12)


def test_a_single_value_has_no_error_and_nan_spreads():
  mean, sem = mean_and_sem([2.5])
  assert mean == 2.5 and np.isnan(sem)
  assert np.isnan(mean_and_sem([1.0, np.nan])).all()
