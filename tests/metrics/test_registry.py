import jax
import numpy as np
import pytest

from scorelab.metrics import CLASS_METRICS, METRICS, Reference
from scorelab.targets.mixtures import nine_modes

TARGET = nine_modes()
X, Y = (np.asarray(TARGET.sample(jax.random.key(s), 200)) for s in (0, 1))
REFERENCE = Reference(Y, TARGET)
OF_POINTS = METRICS.keys() - CLASS_METRICS  # those need labels: tests of their own
OPTIONS = {name: {"num_projections": 10} for name in METRICS if "sliced" in name}


def _measure(name, x):
  return METRICS[name](jax.random.key(2), x, REFERENCE, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", sorted(OF_POINTS))
def test_one_contract_and_worse_samples_read_worse(name):
  good, bad = _measure(name, X), _measure(name, 1.5 * np.abs(X) + 1)
  assert isinstance(good, float) and isinstance(bad, float)
  if name in ("precision", "recall"):
    assert good > bad
  elif name != "within_mode_std":  # 1 is right there, and off-mode samples are left out
    assert good < bad


@pytest.mark.parametrize("name", sorted(OF_POINTS))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_exploded_sampler_is_seen(name, value):
  x = X.copy()
  x[3, 1] = value
  assert np.isnan(_measure(name, x))


@pytest.mark.parametrize("name", sorted(OF_POINTS))
def test_jax_arrays_and_device_points(name):
  np.testing.assert_allclose(_measure(name, jax.numpy.asarray(X)), _measure(name, X), rtol=1e-12)


def test_reference_keeps_the_latest_used():
  reference, made = Reference(Y, capacity=2), []
  for name in "abacb":  # c drops b, which was used before a
    assert reference.cached(name, lambda name=name: made.append(name) or name) == name
  assert made == ["a", "b", "c", "b"]
