"""CONTRIBUTING's recipes: their mathematics, and their names in a checkout and outside of one."""

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, ncsn_gmm
from scorelab import training
from scorelab.config.command_line import read_config
from scorelab.config.importing import import_attribute
from scorelab.config.options import check_bounds, check_fields
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.predictions import PARAMETERIZATIONS
from scorelab.samplers import RecordedNoise, ZeroNoise
from scorelab.schedules import VariancePreserving, uniform, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.training import ensembles
from tests.forked_main import Forked
from tests.paths import ROOT, copy_checkout

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"<!-- recipe: (\S+) -->\n```python\n(.*?)```", TEXT, re.DOTALL))


class Recipe(NamedTuple):
  """What the text says of a file: the registry's, the part's name, and the field that takes it."""

  registry: str
  name: str
  attribute: str
  field: str
  option: str = ""


RECIPES = {
  "scorelab/samplers/ralston.py": Recipe(
    "samplers/sampler_registry.py", "ralston", "ralston", "sampler.name", "sampler.node=0.5"
  ),
  "scorelab/losses/absolute.py": Recipe(
    "losses/loss_registry.py", *["absolute_noise"] * 2, "loss.name", "loss.power=1.5"
  ),
  "scorelab/schedules/linear_variance.py": Recipe(
    "schedules/schedule_registry.py", "linear_variance", "LinearVariance", "schedule.name"
  ),
  "scorelab/schedules/cubic.py": Recipe(
    "schedules/grid_registry.py", *["cubic"] * 2, "sampler.grid"
  ),
  "scorelab/targets/triangle.py": Recipe(
    "targets/target_registry.py", *["triangle"] * 2, "target.name"
  ),
  "scorelab/metrics/means.py": Recipe(
    "metrics/metric_registry.py", *["mean_error"] * 2, "evaluation.metrics"
  ),
  "scorelab/networks/gated.py": Recipe(
    "networks/network_registry.py", "gated_mlp", "GatedMLP", "network.name"
  ),
}
SMALL = ["--config=configs/ncsn_gmm.py:fast", "--config.evaluation.rows=()"]
SMALL += ["--config.training.batch_size=32", "--config.network.width=16"]


def typed(recipe, name):
  value = f"('{name}',)" if recipe.field.endswith("metrics") else name
  return f"--config.{recipe.field}={value}"


def with_option(recipe, name):
  """The arguments that name a part and set its new option."""
  return [typed(recipe, name), *([f"--config.{recipe.option}"] if recipe.option else [])]


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


@pytest.mark.e2e
@pytest.mark.parametrize("options", [{}, {"node": 0.9}], ids=["ralston", "late"])
def test_the_sampler_is_of_second_order(options, part, x64):
  """On N(0, s^2) x / alpha goes as sqrt(s^2 + r^2), in closed form."""
  ralston = part("ralston.ralston")
  target, schedule = GaussianMixture([1.0], [[0.0, 0.0]], [4.0]), VariancePreserving(0.1, 20.0)
  errors = []
  for num_steps in (20, 40, 80):
    grid = uniform_log_snr(schedule, num_steps, sigma_max=30.0, sigma_min=0.1, to_data=False)
    samples = ralston(ZeroNoise(), target.predict, jnp.ones(2), grid, **options)
    assert samples.nfe == 2 * num_steps
    begun, ended = (level.sigma / level.alpha for level in (grid[0], grid[num_steps]))
    exact = jnp.sqrt((4 + ended**2) / (4 + begun**2)) / grid[0].alpha * grid[num_steps].alpha
    errors.append(float(jnp.abs(samples.x - exact).max()))
  np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.15)


@pytest.mark.e2e
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


@pytest.mark.e2e
def test_the_loss_trains_by_its_name(part):
  config = ncsn_gmm.get_config("fast")
  config.loss.update(name="own_absolute.absolute_noise", weighting=None)
  config.network.update(width=16, depth=1, num_features=8)
  experiment = build(config)
  chunk = training.make_chunk(experiment)
  state, metrics = chunk(training.init_state(experiment), experiment.data, length=5)
  assert np.isfinite(metrics["loss"]).all()
  # Before it has learned, the noise is predicted as 0 nearly everywhere: E |z|_1 = 2 sqrt(2 / pi).
  assert 0.3 < float(metrics["loss"][0]) < 2 * np.sqrt(2 / np.pi)
  assert not np.allclose(
    jax.tree.leaves(state.params)[0], jax.tree.leaves(training.init_state(experiment).params)[0]
  )


@pytest.mark.parametrize("words", [1, 2])
def test_a_new_option_is_set_from_the_shell(part, words):
  """No file but the part's own knows of it: not its name, its type or its range."""
  typed = [["--config.sampler.name", "own_ralston.ralston"], ["--config.sampler.node", "0.5"]]
  arguments = [word for pair in typed for word in (pair if words == 2 else ["=".join(pair)])]
  config = read_config(f"{ROOT}/configs/ncsn_gmm.py:fast", arguments)
  assert config.sampler.node == 0.5
  check_fields(config, base.get_config())
  check_bounds(config)
  config.sampler.node = 1.0
  with pytest.raises(ConfigError, match=r"^sampler\.node = 1\.0, must be in \(0, 1\)$"):
    check_bounds(config)
  config = read_config(f"{ROOT}/configs/ncsn_gmm.py:fast")
  with pytest.raises(ConfigError, match=r"sampler\.node = 0\.5 is not an option of dpmpp_2m on"):
    config.sampler.node = 0.5
    build(config)


def test_a_config_file_sets_a_new_option(part, tmp_path):
  text = "from configs import ncsn_gmm\n\n\ndef get_config(arg=''):\n"
  text += "  config = ncsn_gmm.get_config(arg)\n  config.sampler.name = 'own_ralston.ralston'\n"
  (tmp_path / "plain.py").write_text(f"{text}  return config\n")
  (tmp_path / "sets.py").write_text(f"{text}  config.sampler.node = 0.5\n  return config\n")
  (tmp_path / "wrong.py").write_text(f"{text}  config.sampler.nod = 0.5\n  return config\n")
  for name, arguments in {"plain": ["--config.sampler.node=0.5"], "sets": []}.items():
    config = read_config(f"{name}.py", arguments)
    check_fields(config, base.get_config())
    assert config.sampler.node == 0.5
  with pytest.raises(ConfigError, match=r"^sampler\.nod is not a field; did you mean 'node'\?$"):
    check_fields(read_config("wrong.py"), base.get_config())
  with pytest.raises(ConfigError, match=r"config\.sampler\.nodee is not a field; did you mean"):
    read_config("plain.py", ["--config.sampler.nodee=1"])


@pytest.mark.e2e
def test_an_ensemble_varies_a_new_option(part):
  config = ncsn_gmm.get_config("fast")
  config.sampler.name = "own_ralston.ralston"
  config.evaluation.update(rows=(), metrics=("energy_distance",))
  config.ensemble.over = "sampler.node=0.4,0.9"
  members = ensembles.build(config).members
  assert [member.over for member in members] == [{"sampler.node": 0.4}, {"sampler.node": 0.9}]
  config.ensemble.over = "sampler.node=0.4,1.9"
  with pytest.raises(ConfigError, match=r"sampler\.node = 1\.9, must be in \(0, 1\)"):
    ensembles.build(config)


def test_the_loss_is_the_error_to_a_power(part):
  """E |z|^power of a standard normal, in closed form.

  The network is one that always says 0, so that its error is the noise itself.
  """
  absolute_noise, schedule = part("absolute.absolute_noise"), VariancePreserving(0.1, 20.0)
  zero = PARAMETERIZATIONS["noise"](
    lambda _, x, c, **rngs: jnp.zeros_like(x), lambda level: level.sigma
  )
  batch = {"x": jnp.zeros((40_000, 1))}
  for power, moment in ((1.0, (2 / np.pi) ** 0.5), (2.0, 1.0), (3.0, (8 / np.pi) ** 0.5)):
    loss = absolute_noise(zero, schedule, power=power)
    value, _ = loss({}, jax.random.key(0), batch, None)
    assert float(value) == pytest.approx(moment, rel=0.04)  # 4 standard errors for power 3


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
  params = jax.jit(network.init)(jax.random.key(0), x, c)
  slopes = jax.jit(jax.jacobian(lambda x, c: network.apply(params, x, c), (0, 1)))(x, c)
  for slope in slopes:
    size = np.abs(np.asarray(slope).reshape(3, 2, 3, -1)).sum((1, 3))
    assert (np.diag(size) > 0).all() and not (size - np.diag(np.diag(size))).any()


def contents(folder):
  """The lines of every Python and JSON file."""
  files = [f for f in folder.rglob("*.*") if f.suffix in (".py", ".json")]
  return {str(f.relative_to(folder)): f.read_text().splitlines() for f in files}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
  """The checkout with every recipe's file, and its line in the registry."""
  folder = tmp_path_factory.mktemp("copy")
  copy_checkout(folder, only=("scorelab/", "configs/", "tests/forked", "main.py"))
  before = contents(folder)
  for file, recipe in RECIPES.items():
    (folder / file).write_text(FILES[file])
    module = file.removesuffix(".py").replace("/", ".")
    with (folder / "scorelab" / recipe.registry).open("a") as registry:
      registry.write(f"from {module} import {recipe.attribute}\n")
  after = contents(folder)
  assert after.keys() - before.keys() == RECIPES.keys()
  changed = {name for name in before if after[name] != before[name]}
  assert changed == {f"scorelab/{recipe.registry}" for recipe in RECIPES.values()}
  for name in changed:  # one line each, behind those that were there
    assert after[name][:-1] == before[name]
  return folder


@pytest.mark.e2e
def test_recipes_can_be_imported_from_their_packages(copy):
  lines = [
    f"from {pathlib.Path(file).parent.as_posix().replace('/', '.')} import {recipe.attribute}"
    for file, recipe in RECIPES.items()
  ]
  lines += [f"print({recipe.attribute}.__module__)" for recipe in RECIPES.values()]
  command = [sys.executable, "-c", "\n".join(lines)]
  environment = {**os.environ, "PYTHONPATH": str(copy)}
  printed = subprocess.run(
    command, cwd=copy, env=environment, text=True, capture_output=True, check=True
  ).stdout
  assert printed.split() == [file.removesuffix(".py").replace("/", ".") for file in RECIPES]


@pytest.mark.e2e
def test_recipes_run_by_their_names_in_a_checkout(copy, tmp_path):
  """All seven in one run, each with its option."""
  given = [flag for recipe in RECIPES.values() for flag in with_option(recipe, recipe.name)]
  with Forked(copy, copy) as main:
    result = main.run([*SMALL, *given, f"--workdir={tmp_path / 'run'}"], timeout=900)
  assert result.returncode == 0, result.stderr
  assert (tmp_path / "run" / "DONE").exists()
  config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
  assert (config["sampler"]["name"], config["sampler"]["node"]) == ("ralston", 0.5)
  assert (config["loss"]["name"], config["loss"]["power"]) == ("absolute_noise", 1.5)


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
    arguments += with_option(recipe, f"my_{name}.{recipe.attribute}")
  with Forked(ROOT, here, PYTHONPATH=str(there)) as main:
    result = main.run(arguments, timeout=900)
  assert result.returncode == 0, result.stderr
  (done,) = here.glob("results/ncsn_gmm/*/DONE")
  config = json.loads((done.parent / "config.json").read_text())["config"]
  assert config["sampler"]["name"] == "my_ralston.ralston"
  assert (config["sampler"]["node"], config["loss"]["power"]) == (0.5, 1.5)
  (row,) = json.loads((done.parent / "evaluation.json").read_text())["rows"]
  assert list(row["metrics"]) == ["my_means.mean_error"]
