"""The figures of chains and of a score at one level, on runs of seconds: numbers that are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import dsm_gmm, hutchinson_gmm, hyvarinen_gmm, mala_gmm, ssm_gmm
from scorelab import evaluation, plotting, training
from scorelab.experiment.build import build
from scorelab.runs.identity import run_id
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.targets.mixtures import nine_modes
from scorelab.typing import Context
from scripts import figures
from scripts.drawing import score_matching

GRID = np.array([[x, y] for y in (-10, 0, 10) for x in (-10, 0, 10)])  # the modes, in their order


def finish(path, config):
  """A finished run of this config, and its id."""
  config.evaluation.update(num_samples=50, num_reference=50, num_projections=10)
  config.evaluation.metrics = ("energy_distance",)
  experiment, stop = build(config), StopFlag()
  workdir = open_workdir(path, experiment.config, {})
  state = training.train(experiment, workdir, stop)
  evaluation.evaluate(experiment, training.evaluated_params(state), workdir, stop)
  workdir.done.touch()
  return run_id(experiment.config)


CONFIGS = [mala_gmm, pytest.param(hyvarinen_gmm, marks=pytest.mark.slow), dsm_gmm]


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda m: m.__name__)
def drawn(request, tmp_path_factory):
  """(name, run id, folder) of all figures of a config, of small networks and short chains."""
  name, config = request.param.__name__.split(".")[-1], request.param.get_config("fast")
  config.training.num_steps and config.network.update(width=8, depth=1, num_features=4)
  config.sampler.num_steps = 200
  if name == "mala_gmm":
    config.evaluation.rows = ("ula:200:step_size=0.03:start_std=10.0",)
  path, out = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("figures")
  run = finish(path, config)
  small = {
    "chains": functools.partial(score_matching.chains, num_chains=8, num_frames=5),
    "score_map": functools.partial(score_matching.score_map, num=6, stride=3),
  }
  with pytest.MonkeyPatch.context() as patch:
    for of_system in (score_matching.FIGURES, score_matching.EXACT_FIGURES):
      for figure in of_system.keys() & small.keys():
        patch.setitem(of_system, figure, small[figure])
    assert figures.main([name, "--workdir", str(path), "--out", str(out)]) == 0
  return name, run, out


def test_draws_everything(drawn):
  name, run, out = drawn
  of_chains = {"chains.png", "chains.gif", "chains.csv", "chains_diagnostics.csv"}
  expected = of_chains | {"budget.png", "budget.csv", "evaluation.json"}
  if name != "mala_gmm":
    for figure in ("loss", "score_error", "score_map", "samples"):
      expected |= {f"{figure}.png", f"{figure}.csv"}
    expected |= {"samples_score.csv"}
  assert {p.name for p in out.iterdir()} == expected
  command = f"python scripts/figures.py {name} --workdir results/{name}/{run}"
  for file in out.glob("*.png"):
    assert 3000 < file.stat().st_size <= plotting.style.MAX_PNG_BYTES
    assert Image.open(file).info["Description"] == command
  for file in out.glob("*.csv"):
    assert file.read_text().splitlines()[0] == f"# {command}" and plotting.read_csv(file)
  assert command.encode() in (out / "chains.gif").read_bytes()
  assert (out / "chains.gif").stat().st_size < 1_000_000


def test_chains_and_their_diagnostics(drawn):
  _, _, out = drawn
  rows = {r["chains"]: r for r in plotting.read_csv(out / "chains_diagnostics.csv")}
  points = plotting.read_csv(out / "chains.csv")
  assert {r["chains"] for r in points} == set(rows) and len(rows) == 2
  assert {r["step"] for r in points} >= {0, 200}

  def at(chains, step):
    chosen = [r for r in points if r["chains"] == chains and r["step"] == step]
    return np.array([[r["x1"], r["x2"]] for r in chosen])

  first, second = rows
  np.testing.assert_array_equal(at(first, 0), at(second, 0))  # the same start
  for chains, row in rows.items():
    ends = at(chains, 200)
    nearest = np.linalg.norm(ends[:, None] - GRID, axis=-1).argmin(axis=1)
    shares = [row[f"mode_{i}"] for i in range(9)]
    np.testing.assert_allclose(shares, np.bincount(nearest, minlength=9) / 8)
    assert (row["acceptance"] < 1) == chains.startswith("MALA")
  exact = rows[second]  # ULA with the exact score: mixes within modes, never between
  assert exact["mode_changes"] == exact["off_mode_share"] == 0
  assert exact["rhat"] > 3 and exact["rhat_within"] < 1.5
  assert exact["ess"] < 10 < exact["ess_within"]


def test_loss_and_score(drawn):
  name, _, out = drawn
  if name == "mala_gmm":
    return
  variance, sigma = (1.1, 1.0) if name == "dsm_gmm" else (0.1, 0.0)
  best = 2 - 2 / 1.1 if name == "dsm_gmm" else -10.0  # of modes that do not overlap
  losses = plotting.read_csv(out / "loss.csv")
  assert [r["step"] for r in losses] == [10, 20, 30, 40, 50, 60]
  assert all(r["optimum"] == pytest.approx(best, abs=0.01) for r in losses)
  errors = plotting.read_csv(out / "score_error.csv")
  assert [r["mode"] for r in errors] == ["all", *range(1, 10)]
  assert {r["sigma"] for r in errors} == {sigma}
  (field,) = [plotting.read_csv(out / "score_map.csv")]
  x, network, exact = (
    np.array([[r[f"{n}1"], r[f"{n}2"]] for r in field]) for n in ("x", "network", "exact")
  )
  assert len(field) == 36
  gap = [r["gap"] for r in field]
  np.testing.assert_allclose(gap, np.linalg.norm(network - exact, axis=1), rtol=1e-4)
  # Nearer to one mode by far, its Gaussian's score.
  distances = np.linalg.norm(x[:, None] - GRID, axis=-1)
  alone = np.diff(np.sort(distances**2, axis=1)[:, :2], axis=1)[:, 0] > 30 * variance
  assert alone.sum() >= 9
  alone_score = (GRID[distances.argmin(axis=1)] - x) / variance
  np.testing.assert_allclose(exact[alone], alone_score[alone], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ("module", "sigma", "expected"),
  [
    # Modes 10 apart are alone: E|s*|^2 = d / v with d = 2 and v = 0.1 + sigma^2.
    (hyvarinen_gmm, 0.0, -10.0),
    (hutchinson_gmm, 0.0, -10.0),
    (ssm_gmm, 0.0, -10.0),
    (dsm_gmm, 1.0, 2 - 2 / 1.1),
  ],
)
def test_optimum_of_the_nine_modes(module, sigma, expected):
  experiment = build(module.get_config("fast"))
  found = score_matching.optimum(experiment, jax.random.key(0), 1000)
  assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("module", [hyvarinen_gmm, ssm_gmm, dsm_gmm])
def test_optimum_is_the_loss_of_the_truth(module):
  """Where modes overlap: the loss itself, with the exact score, within 4 standard errors."""
  config = module.get_config("fast")
  config.target.update(name="two_modes_1d", separation=1.5)
  config.parameterization.name, config.training.num_steps = "exact", 0
  experiment = build(config)

  @jax.jit
  def value(key):
    data_key, key = jax.random.split(key)
    context = Context(jnp.zeros((), int), {})
    return experiment.loss({}, key, {"x": experiment.target.sample(data_key, 20_000)}, context)[0]

  values = np.array([value(k) for k in jax.random.split(jax.random.key(1), 20)])
  found = score_matching.optimum(experiment, jax.random.key(2))
  error = values.std(ddof=1) / len(values) ** 0.5
  assert abs(found - values.mean()) < 4 * error + 2e-3 * abs(found)  # and its own error


def test_diagnose():
  rng, law = np.random.default_rng(0), nine_modes()
  moves = 0.1**0.5 * rng.normal(size=(401, 6, 2))
  # Independent draws of one mode: every one counts.
  one = score_matching.diagnose(moves, law)
  assert one["rhat"] == one["rhat_within"] == pytest.approx(1, abs=0.02)
  assert one["ess"] == one["ess_within"] == pytest.approx(200 * 6, rel=0.25)
  assert (one["acceptance"], one["mode_changes"], one["mode_4"]) == (1, 0, 1)
  # R-hat is that of chains which agree, and the figure says that they have seen one mode.
  assert one["modes_visited"] == 1
  assert "WARNING: 1 of 9 modes visited" in score_matching._findings(one)
  everywhere = score_matching.diagnose(moves + GRID[np.arange(401 * 6) % 9].reshape(401, 6, 2), law)
  assert everywhere["modes_visited"] == 9
  assert "WARNING" not in score_matching._findings(everywhere)
  # The same ones, each chain in a mode of its own.
  apart = score_matching.diagnose(moves + GRID[:6], law)
  assert apart["rhat"] > 10 and apart["ess"] < 6
  assert apart["rhat_within"] == pytest.approx(one["rhat"])
  assert [apart[f"mode_{i}"] for i in range(9)] == pytest.approx([1 / 6] * 6 + [0] * 3)
  weights = np.asarray(law.weights)
  assert apart["mode_weight_tv"] == pytest.approx(np.abs(weights[:6] - 1 / 6).sum())  # 6 are short
  # One chain changes modes twice, late; every second step stands still.
  late = moves + GRID[4]
  late[300:350, 0] += 10
  late[1::2] = late[:-1:2]
  found = score_matching.diagnose(late, law)
  assert (found["mode_changes"], found["acceptance"]) == (2, 0.5)
