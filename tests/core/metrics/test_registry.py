import jax
import numpy as np
import pytest

from scorelab.inverse import Observation
from scorelab.metrics import LABEL_METRICS, METRICS, SUPPORT_METRICS, Reference, needed_by
from scorelab.targets.circles import two_circles
from scorelab.targets.mixtures import nine_modes

TARGET, CIRCLES = nine_modes(), two_circles()
X, Y = (np.asarray(TARGET.sample(jax.random.key(s), 200)) for s in (0, 1))
SEEN = Observation(np.eye(2), np.zeros(2), 1.0)
REFERENCE, ON_CIRCLES = Reference(Y, TARGET, observation=SEEN), Reference(target=CIRCLES)
MEASURED = {name for name in METRICS if not (needed_by(name, TARGET) and needed_by(name, CIRCLES))}
OF_POINTS = MEASURED - LABEL_METRICS.keys()  # those of classes have tests of their own
OPTIONS = {name: {"num_projections": 10} for name in METRICS if "sliced" in name}


def _measure(name, x):
  reference = ON_CIRCLES if name in SUPPORT_METRICS else REFERENCE
  return METRICS[name](jax.random.key(2), x, reference, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", sorted(OF_POINTS))
def test_one_contract_and_worse_samples_read_worse(name):
  x = np.asarray(CIRCLES.sample(jax.random.key(3), 200)) if name in SUPPORT_METRICS else X
  good, bad = _measure(name, x), _measure(name, 1.5 * np.abs(x) + 1)
  assert isinstance(good, float) and isinstance(bad, float)
  if name in ("precision", "recall"):
    assert good > bad
  # 1 is right of within_mode_std, which leaves off-mode samples out; to be far is no memory.
  elif name not in ("within_mode_std", "memorised_share"):
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
