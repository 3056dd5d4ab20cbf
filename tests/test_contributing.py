"""CONTRIBUTING's recipes: their mathematics, and their names in a checkout and outside of one."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ncsn_gmm
from scorelab import training
from scorelab.config.importing import import_attribute
from scorelab.experiment.build import build
from scorelab.samplers import RecordedNoise, ZeroNoise
from scorelab.schedules import VariancePreserving, uniform, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture
from tests.forked_main import Forked

ROOT = pathlib.Path(__file__).absolute().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"<!-- recipe: (\S+) -->\n```python\n(.*?)```", TEXT, re.DOTALL))


class Recipe(NamedTuple):
  """What the text says of a file: the registry, the name there, and the field that takes it."""

  registry: str
  name: str
  attribute: str
  field: str


RECIPES = {
  "scorelab/samplers/ralston.py": Recipe("SAMPLERS", "ralston", "ralston", "sampler.name"),
  "scorelab/losses/absolute.py": Recipe("LOSSES", *["absolute_noise"] * 2, "loss.name"),
  "scorelab/schedules/linear_variance.py": Recipe(
    "SCHEDULES", "linear_variance", "LinearVariance", "schedule.name"
  ),
  "scorelab/schedules/cubic.py": Recipe("GRIDS", "cubic", "cubic", "sampler.grid"),
  "scorelab/targets/triangle.py": Recipe("TARGETS", "triangle", "triangle", "target.name"),
  "scorelab/metrics/means.py": Recipe("METRICS", *["mean_error"] * 2, "evaluation.metrics"),
  "scorelab/networks/gated.py": Recipe("NETWORKS", "gated_mlp", "GatedMLP", "network.name"),
}
SMALL = ["--config=configs/ncsn_gmm.py:fast", "--config.evaluation.rows=()"]
SMALL += ["--config.training.batch_size=32", "--config.network.width=16"]


def typed(recipe, name):
  value = f"('{name}',)" if recipe.field.endswith("metrics") else name
  return f"--config.{recipe.field}={value}"


def test_every_recipe_is_there_with_its_command():
  assert set(FILES) == set(RECIPES)
  for recipe in RECIPES.values():
    assert f"`{recipe.registry}`" in TEXT
    assert typed(recipe, recipe.name).replace("'", "").replace('"', "") in TEXT.replace(
      "'", ""
    ).replace('"', "")


@pytest.fixture
def part(tmp_path, monkeypatch):
  """Takes a recipe's part by its dotted name, as from outside the checkout."""
  for file, code in FILES.items():
    (tmp_path / f"own_{pathlib.Path(file).name}").write_text(code)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
  yield lambda name: import_attribute(f"own_{name}")
  for file in FILES:
    sys.modules.pop(f"own_{pathlib.Path(file).stem}", None)


def test_the_sampler_is_of_second_order(part, x64):
  """On N(0, s^2) x / alpha goes as sqrt(s^2 + r^2), in closed form."""
  ralston = part("ralston.ralston")
  target, schedule = GaussianMixture([1.0], [[0.0, 0.0]], [4.0]), VariancePreserving(0.1, 20.0)
  errors = []
  for num_steps in (20, 40, 80):
    grid = uniform_log_snr(schedule, num_steps, sigma_max=30.0, sigma_min=0.1, to_data=False)
    samples = ralston(ZeroNoise(), target.predict, jnp.ones(2), grid)
    assert samples.nfe == 2 * num_steps
    begun, ended = (level.sigma / level.alpha for level in (grid[0], grid[num_steps]))
    exact = jnp.sqrt((4 + ended**2) / (4 + begun**2)) / grid[0].alpha * grid[num_steps].alpha
    errors.append(float(jnp.abs(samples.x - exact).max()))
  np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.15)


def test_the_samplers_churn_keeps_the_law(part, x64):
  """On N(0, 4) it is affine in start and draws: its variance follows from derivatives."""
  ralston, target = part("ralston.ralston"), GaussianMixture([1.0], [[0.0]], [4.0])
  schedule = VariancePreserving(0.1, 20.0)
  grid = uniform_log_snr(schedule, 40, sigma_max=30.0, sigma_min=0.1, to_data=False)

  def run(x, draws):
    return ralston(RecordedNoise(draws), target.predict, x, grid, churn=8.0).x[0]

  gain, gains = jax.grad(run, (0, 1))(jnp.zeros(1), jnp.zeros((40, 1)))
  begun, ended = (4 * level.alpha**2 + level.sigma**2 for level in (grid[0], grid[40]))
  assert jnp.sum(gains**2) > 0.1 * ended
  np.testing.assert_allclose(gain[0] ** 2 * begun + jnp.sum(gains**2), ended, rtol=0.01)


def test_the_loss_trains_by_its_name(part):
  config = ncsn_gmm.get_config("fast")
  config.loss.update(name="own_absolute.absolute_noise", weighting=None)
  experiment = build(config)
  chunk = training.make_chunk(experiment)
  state, metrics = chunk(training.init_state(experiment), experiment.data, length=5)
  assert np.isfinite(metrics["loss"]).all()
  # Before it has learned, the noise is predicted as 0 nearly everywhere: E |z|_1 = 2 sqrt(2 / pi).
  assert 0.3 < float(metrics["loss"][0]) < 2 * np.sqrt(2 / np.pi)
  assert not np.allclose(
    jax.tree.leaves(state.params)[0], jax.tree.leaves(training.init_state(experiment).params)[0]
  )


def test_the_schedule_is_that_of_its_formulas(part, x64):
  schedule, t = part("linear_variance.LinearVariance")(), jnp.linspace(0.01, 0.99, 9)
  level = schedule.at(t)
  np.testing.assert_allclose(level.sigma**2, t, rtol=1e-12)
  np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, rtol=1e-12)
  np.testing.assert_allclose(schedule.time(level.log_snr), t, rtol=1e-12)
  np.testing.assert_allclose(schedule.drift(t), -1 / (2 * (1 - t)), rtol=1e-12)


def test_the_grid_is_equally_spaced_in_the_cube_root(part, x64):
  """At its ends `uniform`'s, and in the middle the cube of the mean of the roots."""
  schedule = VariancePreserving(0.1, 20.0)
  grid = part("cubic.cubic")(schedule, 3)
  ends = uniform(schedule, 3)
  np.testing.assert_allclose(grid.levels.t[jnp.array([0, 2])], ends.levels.t[jnp.array([0, 2])])
  np.testing.assert_allclose(grid.levels.t[1], ((1 + 0.1) / 2) ** 3)  # t_min = 1e-3
  assert grid.num_steps == 3


def test_the_target_has_its_moments(part):
  """Mean 0 and covariance (radius^2 / 2 + std^2) I, of 4,000 points within 4 standard errors."""
  x = np.asarray(part("triangle.triangle")(4.0, 0.5).sample(jax.random.key(0), 4000))
  variance = 4.0**2 / 2 + 0.5**2
  np.testing.assert_allclose(x.mean(0), 0, atol=4 * (variance / 4000) ** 0.5)
  np.testing.assert_allclose(
    np.cov(x.T), variance * np.eye(2), atol=4 * variance * (2 / 4000) ** 0.5
  )


def test_the_metric_is_a_shifts_length(part):
  mean_error, x = part("means.mean_error"), np.random.default_rng(0).normal(size=(50, 2))
  assert mean_error(None, x + [3, 4], x) == pytest.approx(5)
  assert np.isnan(mean_error(None, np.array([[np.inf, 0.0]]), x))


def test_the_network_takes_each_point_by_itself(part):
  """An output depends on its own point and level, and on no other's."""
  network, x, c = part("gated.GatedMLP")(8, 2), 1 + jnp.eye(3, 2), jnp.array([0.0, 1.0, 2.0])
  params = network.init(jax.random.key(0), x, c)
  slopes = jax.jacobian(lambda x, c: network.apply(params, x, c), (0, 1))(x, c)
  for slope in slopes:
    size = np.abs(np.asarray(slope).reshape(3, 2, 3, -1)).sum((1, 3))
    assert (np.diag(size) > 0).all() and not (size - np.diag(np.diag(size))).any()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
  """The checkout with every recipe's file, and its import and its name in the registry."""
  folder = tmp_path_factory.mktemp("copy")
  listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
  for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split():
    if name.startswith(("scorelab/", "configs/", "tests/forked", "main.py")):
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(ROOT / name, folder / name)
  for file, recipe in RECIPES.items():
    (folder / file).write_text(FILES[file])
    package = (folder / file).parent / "__init__.py"
    module = file.removesuffix(".py").replace("/", ".")
    text = re.sub(
      rf"^{recipe.registry}\b.*?{{",
      rf'\g<0>\n  "{recipe.name}": {recipe.attribute},',
      package.read_text(),
      flags=re.MULTILINE,
    )
    first = re.search(r"^from scorelab", text, re.MULTILINE).start()
    package.write_text(f"{text[:first]}from {module} import {recipe.attribute}\n{text[first:]}")
  return folder


@pytest.mark.e2e
def test_recipes_run_by_their_names_in_a_checkout(copy, tmp_path):
  with Forked(copy, copy) as main:
    for file, recipe in RECIPES.items():
      workdir = tmp_path / recipe.name
      result = main.run([*SMALL, typed(recipe, recipe.name), f"--workdir={workdir}"], timeout=900)
      assert result.returncode == 0, f"{file}: {result.stderr}"
      assert (workdir / "DONE").exists()


@pytest.mark.e2e
def test_recipes_run_by_dotted_names_outside_the_checkout(tmp_path):
  """All seven in one run, some in the current directory and the others on PYTHONPATH."""
  here, there = tmp_path / "here", tmp_path / "there"
  here.mkdir()
  there.mkdir()
  arguments = [f"--config={ROOT}/configs/ncsn_gmm.py:fast", *SMALL[1:]]
  for number, (file, recipe) in enumerate(RECIPES.items()):
    name = pathlib.Path(file).stem
    ((here, there)[number % 2] / f"my_{name}.py").write_text(FILES[file])
    arguments.append(typed(recipe, f"my_{name}.{recipe.attribute}"))
  with Forked(ROOT, here, PYTHONPATH=str(there)) as main:
    result = main.run(arguments, timeout=900)
  assert result.returncode == 0, result.stderr
  (done,) = here.glob("results/ncsn_gmm/*/DONE")
  config = json.loads((done.parent / "config.json").read_text())["config"]
  assert config["sampler"]["name"] == "my_ralston.ralston"
  (row,) = json.loads((done.parent / "evaluation.json").read_text())["rows"]
  assert list(row["metrics"]) == ["my_means.mean_error"]
