"""Orders of convergence, as docs/samplers.md states them, measured without sampling noise."""

import ast
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.exact import GaussianLaw, end_law, gaussian_law
from scorelab.exact.line import LineMixture
from scorelab.samplers import SAMPLERS, ZeroNoise
from scorelab.schedules import VariancePreserving, karras, uniform, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.targets.mixtures import two_modes_1d
from tests.paths import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

VP = VariancePreserving()
RATIOS = {"sigma_max": 3.0, "sigma_min": 0.3, "to_data": False}
GRIDS = {
  "uniform_log_snr": functools.partial(uniform_log_snr, VP, **RATIOS),
  "karras": functools.partial(karras, VP, **RATIOS),
  "uniform": functools.partial(uniform, VP, t_max=0.5, t_min=0.1, to_data=False),
}
STEPS = {1: 256, 2: 1024, 3: 240, 4: 64}  # so many that the next order's part is below 0.02


def stated():
  """Kind, name, options and order of every sampler in the tables of docs/samplers.md."""
  text = (ROOT / "docs" / "samplers.md").read_text()
  text = text.partition("<!-- orders -->")[2].partition("<!-- /orders -->")[0]
  kind, found = None, []
  for line in filter(None, text.splitlines()):
    names, order, _ = (cell.strip() for cell in line.strip("|").split("|"))
    if re.fullmatch(r"\d", order):
      found += [(kind, label, int(order)) for label in re.findall("`(.+?)`", names)]
    elif set(names) != {"-"}:
      kind = names
  return found


def options_of(label):
  """'lms order=3' -> its sampler and its options."""
  name, *pairs = label.split()
  split = (pair.split("=") for pair in pairs)
  return SAMPLERS[name], {key: ast.literal_eval(value) for key, value in split}


def flow_error(sampler, options, make_grid, num_steps):
  """Root mean square distance from the exact flow, which on the line is the monotone map."""
  target, grid = two_modes_1d(separation=2.0, std=0.8), make_grid(num_steps)
  first, last = (LineMixture.of(target.perturbed(grid[i].alpha, grid[i].sigma)) for i in (0, -1))
  x = np.linspace(-3, 3, 101) * float(grid[0].sigma)
  run = jax.jit(lambda x, grid: sampler(ZeroNoise(), target.predict, x, grid, **options).x)
  apart = np.asarray(run(jnp.asarray(x)[:, None], grid))[:, 0] - last.quantile(*first.mass(x))
  return np.sqrt(np.average(apart**2, weights=np.exp(first.log_prob(x))))


def law_error(sampler, options, make_grid, num_steps):
  """Error of the variance of a law that starts from the true one."""
  target, grid = GaussianMixture([1.0], [[1.5]], [0.7]), make_grid(num_steps)
  law = gaussian_law(sampler, target, grid, start="true", **options)
  return abs(law.variances[0] - end_law(target, grid).variances[0])


def measured(kind, label, order, spacing="uniform_log_snr"):
  sampler, options = options_of(label)
  error = flow_error if kind == "deterministic" else law_error
  num_steps = STEPS[order]
  coarse, fine = (error(sampler, options, GRIDS[spacing], n) for n in (num_steps, 2 * num_steps))
  return np.log2(coarse / fine)


QUICK = ("ddim", "dpmpp_3m", "unipc lower_order_final=False", "rk4", "euler_maruyama")
ROWS = [
  pytest.param(*row, marks=() if row[1] in QUICK else pytest.mark.e2e, id=row[1])
  for row in stated()
]


@pytest.mark.e2e
@pytest.mark.parametrize(("kind", "label", "order"), ROWS)
def test_the_order_is_the_stated_one(kind, label, order):
  assert measured(kind, label, order) == pytest.approx(order, abs=0.02)


@pytest.mark.e2e
@pytest.mark.parametrize("spacing", ["karras", "uniform"])
@pytest.mark.parametrize("label", ["dpmpp_2m", "dpmpp_3m", "unipc", "lms order=3"])
def test_other_grids_have_the_same_order(label, spacing):
  assert measured("deterministic", label, 2, spacing) == pytest.approx(2, abs=0.02)


def test_every_sampler_of_affine_steps_has_a_row():
  """But for those that do not converge to the target's law, and other names of the same sampler.

  The particles of `feynman_kac` are resampled.
  """
  left_out = {"renoise", "annealed_langevin", "consistency", "predictor_corrector", "feynman_kac"}
  names = {label.split()[0] for _, label, _ in stated()}
  assert {SAMPLERS[name] for name in names} == {
    sampler for name, sampler in SAMPLERS.items() if name not in left_out
  }


def test_the_flow_on_the_line_is_the_monotone_map():
  """On a Gaussian in closed form: each point keeps its place in standard units."""
  target, grid = GaussianMixture([1.0], [[1.5]], [0.7]), GRIDS["karras"](2)
  first, last = (GaussianLaw.of(target).noised(*grid[i][1:]) for i in (0, -1))
  x = np.linspace(-2, 3, 7)
  lines = [LineMixture.of(target.perturbed(grid[i].alpha, grid[i].sigma)) for i in (0, -1)]
  moved = last.mean + (x - first.mean) * np.sqrt(last.variances / first.variances)
  np.testing.assert_allclose(lines[1].quantile(*lines[0].mass(x)), moved, 1e-12)
