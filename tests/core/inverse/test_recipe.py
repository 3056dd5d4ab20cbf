"""CONTRIBUTING's posterior method: its mathematics, and its one line in the registry."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.inverse import Observation
from scorelab.samplers import ancestral
from scorelab.schedules import Level, VariancePreserving, karras
from scorelab.targets import GaussianMixture
from tests.paths import ROOT, copy_checkout

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
((FILE, CODE),) = re.findall(
  r"<!-- posterior recipe: (\S+) -->\n```python\n(.*?)```", TEXT, re.DOTALL
)


@pytest.fixture
def method():
  names = {}
  exec(compile(CODE, FILE, "exec"), names)
  return names["noisy_likelihood"]


@pytest.mark.e2e
def test_it_is_exact_for_a_flat_law(method, x64):
  """Data of std 1e4, rows orthonormal: the exact score to (noise / 1e4)^2, and samples of it."""
  rows, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 2)))
  target, seen = (
    GaussianMixture([1.0], np.zeros((1, 4)), [1e8]),
    Observation(rows.T, [1.0, 2.0], 0.5),
  )
  x, level = jnp.ones((3, 4)), Level(None, jnp.asarray(0.6), jnp.asarray(0.8))
  here, there = method(target.predict, seen)(x, level), target.given(seen).predict(x, level)
  np.testing.assert_allclose(here.score, there.score, atol=1e-6)
  np.testing.assert_allclose(here.x0, there.x0, atol=1e-6)


def test_a_sampler_takes_it(method):
  target, seen = GaussianMixture([1.0], [[0.0, 0.0]], [4.0]), Observation([[1.0, 0.0]], [1.0], 0.1)
  grid = karras(VariancePreserving(), 50)
  x = grid.prior(jax.random.key(0), (500, 2))
  conditional = method(target.predict, seen)
  samples = jax.jit(lambda: ancestral(jax.random.key(1), conditional, x, grid).x)()
  np.testing.assert_allclose(samples[:, 0].mean(), 1, atol=0.1)


@pytest.mark.e2e
def test_one_file_and_one_line_register_it(tmp_path):
  copy_checkout(tmp_path, only=("scorelab/", "configs/"))
  (tmp_path / FILE).write_text(CODE)
  line = f"from {FILE.removesuffix('.py').replace('/', '.')} import noisy_likelihood"
  assert line in TEXT
  with (tmp_path / "scorelab/inverse/posterior_registry.py").open("a") as registry:
    registry.write(line + "\n")
  code = "from scorelab.inverse import POSTERIORS, noisy_likelihood as m\n"
  code += "assert POSTERIORS['noisy_likelihood'] is m; print(m.__module__)\n"
  code += "from configs import posterior_gmm; from scorelab.experiment.build import build\n"
  code += "config = posterior_gmm.get_config('fast')\n"
  code += "config.sampler.update(posterior='noisy_likelihood', strength=0.5)\n"
  code += "options = build(config).evaluation.rows[0].posterior\n"
  code += "assert options.func is m and options.keywords['strength'] == 0.5"
  environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
  command = [sys.executable, "-c", code]
  found = subprocess.run(
    command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True
  )
  assert found.stdout.strip() == "scorelab.inverse.noisy"
