"""What the tests share."""

import jax
import pytest


@pytest.fixture
def x64():
  """float64 for one test: what is exact is compared to rounding, not to float32's."""
  with jax.enable_x64(True):
    yield
