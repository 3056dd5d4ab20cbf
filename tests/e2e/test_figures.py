"""scripts/figures.py, on a run of seconds: every file, its numbers and its command."""

import functools
import shutil

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from configs import base, ncsn_gmm_published
from scorelab import plotting, training
from scorelab.experiment.build import build
from scorelab.metrics.budget import BUDGET
from scorelab.runs.files import write_json
from scorelab.runs.identity import run_id
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.schedules import SCHEDULES
from scripts import figures
from scripts.drawing import flow_1d, nine_modes, source, steps
from scripts.drawing.source import Source, open_sheet

NAME = "ncsn_gmm_published"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of a tiny published config as it is left, and its id; its evaluation is made up."""
  config = ncsn_gmm_published.get_config("fast")
  config.target.num_train = 300
  config.network.update(widths=(16, 16), norms=(True, False))
  config.training.update(num_steps=4, log_every=2, checkpoint_every=2, num_validation=64)
  config.sampler.num_steps = 3
  config.evaluation.update(num_samples=100, num_projections=10, rows=())
  config.evaluation.metrics = ("energy_distance",)
  experiment = build(config)
  workdir = open_workdir(tmp_path_factory.mktemp("run"), experiment.config, {})
  training.train(experiment, workdir, StopFlag())
  points = np.random.default_rng(0).normal(size=(3, 50, 2))
  np.savez(workdir.samples, exact=points[0], reference=points[1], **{"ddim-3": points[2]})
  parts = {"floor": 1.0, "prior": 0.5, "discretisation": 0.25, "learning": -0.5}
  numbers = {"value": 1.25, "sem": 0.1, **parts, **{f"{part}_sem": 0.1 for part in parts}}
  protocol = {"num_keys": 2, "num_samples": 50, "num_reference": 50}
  result = {
    "protocol": {**protocol, "reference": "train", "num_projections": 10},
    "rows": [
      {"label": "ddim-3", "sampler": "ddim", "nfe": 3, "metrics": {"energy_distance": numbers}}
    ],
    "score_error": {
      **{"sigma": [0.1, 1.0], "absolute": [0.1, 0.2], "relative": [0.01, 0.3]},
      **{"absolute_sem": [0.02, 0.03], "relative_sem": [0.001, 0.04]},
    },
    "girsanov": {
      "sigma": [1.0, 0.1],
      **{name: [0.1, 0.2] for name in ("density", "density_sem", "bound", "bound_sem")},
      **{name: 0.1 for part in ("prior", "learning", "total") for name in (part, f"{part}_sem")},
    },
  }
  result["likelihood"] = {
    **dict.fromkeys(("points", "nfe", "failed", "bound_steps"), 2),
    **{"source": "fresh", "method": "rk4", "bin_width": None, "bits_per_dim": 1.5},
    **{name: 0.5 for part in ("flow", "truth", "kl", "bound") for name in (part, f"{part}_sem")},
    **{"bound_kl": 0.25, "bound_kl_sem": None, "bound_bits_per_dim": None},
  }
  write_json(workdir.evaluation, result)
  workdir.done.touch()
  return workdir.path, run_id(experiment.config)


@pytest.fixture
def small(monkeypatch):
  """Few steps, frames and points."""
  monkeypatch.setattr(steps, "STEPS", (4,))
  monkeypatch.setattr(steps, "ETAS", (0.0,))
  for name, options in (
    ("noising", {"num_frames": 4, "num_points": 50}),
    ("ddim", {"num_steps": 4, "num_points": 50}),
    ("langevin", {"num_levels": 4, "num_chains": 5}),
    ("inference", {"num_steps": 6}),
  ):
    draw = functools.partial(getattr(nine_modes, name), **options)
    monkeypatch.setitem(nine_modes.FIGURES, name, draw)


def test_draws_everything(finished, small, tmp_path, capsys):
  path, run = finished
  before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
  arguments = [NAME, "--workdir", str(path), "--out", str(tmp_path), "--keys", "2"]
  assert figures.main(arguments) == 0
  assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before  # only read

  command = f"python scripts/figures.py {NAME} --workdir results/{NAME}/{run} --keys 2"
  pictures = {"loss", "samples", "score_error", "budget", "steps", "steps_metrics", "steps_budget"}
  pictures |= {"inference", "girsanov"}
  assert {p.stem for p in tmp_path.glob("*.png")} == pictures
  for file in tmp_path.glob("*.png"):
    assert 3000 < file.stat().st_size < 300_000
    assert Image.open(file).info["Description"] == command
  films = {"noising.gif", "langevin.gif", "ddim.gif", "ddim.mp4"}
  assert {p.name for p in tmp_path.iterdir() if p.suffix in (".gif", ".mp4")} == films
  for name in films:
    assert 3000 < (tmp_path / name).stat().st_size < 2_000_000
    assert command.encode() in (tmp_path / name).read_bytes()
  tables = {"loss", "samples", "samples_score", "score_error", "budget", "steps", "published"}
  assert {p.stem for p in tmp_path.glob("*.csv")} == tables | {
    *("girsanov", "likelihood", "noising", "langevin", "langevin_metrics", "ddim", "inference")
  }
  for file in tmp_path.glob("*.csv"):
    assert file.read_text().splitlines()[0] == f"# {command}"
    assert plotting.read_csv(file)
  assert (tmp_path / "evaluation.json").read_text() == (path / "evaluation.json").read_text()

  for name in ("budget", "steps"):
    for row in plotting.read_csv(tmp_path / f"{name}.csv"):
      parts = sum(row[part] for part in BUDGET)
      assert parts == pytest.approx(row["value"], abs=1e-9, nan_ok=True)
  rows = plotting.read_csv(tmp_path / "steps.csv")
  assert [r["metric"] for r in rows] == list(steps.METRICS)
  assert {(r["eta"], r["num_steps"]) for r in rows} == {(0, 4)}
  # The comparison holds the same network as the curves.
  compared = {
    (r["row"], r["eta"], r["num_steps"]): r for r in plotting.read_csv(tmp_path / "published.csv")
  }
  for row in rows:
    if row["metric"] == "max_sliced_wasserstein":
      same = compared[steps.NETWORK, row["eta"], row["num_steps"]]
      assert same["value"] == pytest.approx(row["value"])
      assert same["sem"] == pytest.approx(row["sem"])
      exact = compared[steps.EXACT_PRIOR, row["eta"], row["num_steps"]]
      assert exact["value"] == pytest.approx(row["value"] - row["learning"])
  assert "differs" in capsys.readouterr().out  # it has not learned


def test_the_inference_process_knows_where_it_ends(finished, tmp_path):
  path, _ = finished
  arguments = [NAME, "--workdir", str(path), "--out", str(tmp_path), "--only", "inference"]
  assert figures.main(arguments) == 0
  rows = plotting.read_csv(tmp_path / "inference.csv")
  sigma, free, bound = (np.array([r[name] for r in rows]) for name in ("sigma", "eta_1", "eta_0.1"))
  assert len(rows) == 101 and sigma[0] == free[0] == bound[0] == 0
  # The published levels: fifth powers of equidistant numbers from 0.02^(1/5) to 10^(1/5).
  np.testing.assert_allclose(np.diff(sigma[1:] ** 0.2, n=2), 0, atol=1e-6)
  np.testing.assert_allclose(sigma[[1, -1]], [0.02, 10], rtol=1e-5)
  # One start; the less is renewed, the less a path's noise changes from level to level.
  assert free[-1] == bound[-1]
  free, bound = (np.abs(np.diff(x[1:] / sigma[1:])).mean() for x in (free, bound))
  assert bound < 0.3 * free


def test_draws_one(finished, small, tmp_path):
  path, _ = finished
  arguments = [NAME, "--workdir", str(path), "--out", str(tmp_path), "--only", "score_error"]
  assert figures.main(arguments) == 0
  assert {p.name for p in tmp_path.iterdir()} == {
    *("score_error.png", "score_error.csv", "evaluation.json")
  }
  assert "--keys" not in (tmp_path / "score_error.csv").read_text()
  rows = plotting.read_csv(tmp_path / "score_error.csv")
  assert [row["relative_sem"] for row in rows] == [0.001, 0.04]


def test_draws_the_schedules_without_a_run(tmp_path, capsys):
  assert figures.main(["schedules", "--out", str(tmp_path)]) == 0
  assert {p.name for p in tmp_path.iterdir()} == {"comparison.png", "comparison.csv"}
  picture = tmp_path / "comparison.png"
  assert Image.open(picture).info["Description"] == "python scripts/figures.py schedules"
  assert 3000 < picture.stat().st_size < 300_000
  rows = plotting.read_csv(tmp_path / "comparison.csv")
  assert set(SCHEDULES) < {row["schedule"] for row in rows}
  (half,) = (r for r in rows if r["schedule"] == "linear_flow" and r["t"] == 0.5)
  assert [half[name] for name in ("alpha", "sigma", "log_snr", "g")] == pytest.approx(
    [0.5, 0.5, 0, 2**0.5]
  )


def test_the_flow_on_the_line_keeps_quantiles(tmp_path):
  """In one dimension paths do not cross: each ends at the mixture's quantile of its start."""
  draw = functools.partial(flow_1d.paths, num_steps=200, num_flow=5, num_sde=2)
  draw(open_sheet("flow_1d", tmp_path))
  assert {p.name for p in tmp_path.iterdir()} == {"paths.png", "paths.csv"}
  rows = plotting.read_csv(tmp_path / "paths.csv")
  cdf = scipy.stats.norm.cdf
  for process in ("variance_preserving", "linear_flow"):
    end = [row for row in rows if row["process"] == process][-1]
    x = np.array([end[f"flow_{k}"] for k in range(5)])
    assert end["t"] == 0
    np.testing.assert_allclose(
      cdf((x + 2) / 0.5) / 3 + 2 * cdf((x - 2) / 0.5) / 3, np.arange(0.1, 1, 0.2), atol=0.01
    )


def test_the_published_numbers_agree_with_themselves(monkeypatch):
  class Row:
    def __init__(self, eta, num_steps):
      self.options, self.num_steps = {"eta": eta}, num_steps

  class Protocol:
    def __init__(self, etas):
      self.evaluation = self
      self.rows = [Row(eta, n) for eta in etas for n in steps.STEPS]

  def measured(protocol, names, shift=0.0):
    rows = np.zeros((len(protocol.rows), 1, 4, 10))
    noise = np.tile([0.1, -0.1], 5)
    rows[:, 0, 0] = 1.28 + noise
    for r, row in enumerate(protocol.rows):
      for name in names:
        known = steps.PUBLISHED.get((name, row.options["eta"], row.num_steps))
        rows[r, 0, steps._SET[name]] = (known.mean if known else 0.0) + shift + noise
    return rows

  ours, wide = Protocol(steps.ETAS), Protocol((0.0,))
  names = (steps.EXACT_TRUE, steps.EXACT_PRIOR, steps.NETWORK)
  wide_measured = measured(wide, (steps.EXACT_WIDE,))
  table = steps.compare(ours, measured(ours, names), wide, wide_measured)
  assert len(table) == 6 * 6 + 1
  network = [row for row in table if row["row"] == steps.NETWORK]
  assert {row["verdict"] for row in network} == {"compatible"}  # its tolerance was set afterwards
  assert all(row["verdict"] == "agrees" for row in table if row not in network)
  assert max(abs(row["difference"]) for row in table) < 1e-12

  table = steps.compare(ours, measured(ours, names, shift=0.39), wide, wide_measured)
  verdicts = {row["row"]: row["verdict"] for row in table}
  assert verdicts[steps.NETWORK] == "compatible" and verdicts[steps.EXACT_WIDE] == "agrees"
  assert verdicts[steps.EXACT_TRUE] == verdicts[steps.EXACT_PRIOR] == "differs"


def test_lists_figures(capsys):
  assert figures.main(["--list"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == sum(len(of_system) for of_system in figures.FIGURES.values())
  assert all(len(line.split()) > 4 for line in lines)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([NAME, "--workdir", "x", "--keys", "0"], "must be at least 1"),
    ([], "give a name and a --workdir"),
    (["schedules", "--workdir", "x"], "no --workdir for schedules"),
    (["nonsense", "--workdir", "x"], "invalid choice"),
    ([NAME, "--workdir", "x", "--only", "nonsense"], "no such figure"),
  ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
  with pytest.raises(SystemExit) as info:
    figures.main(arguments)
  assert info.value.code == 2 and message in capsys.readouterr().err


def test_an_unfinished_run_is_refused_in_one_line(finished, tmp_path, capsys):
  assert figures.main([NAME, "--workdir", str(tmp_path)]) == 1
  assert "no finished run" in capsys.readouterr().err
  path, _ = finished
  (tmp_path / "DONE").touch()
  shutil.copy(path / "config.json", tmp_path)
  assert figures.main([NAME, "--workdir", str(tmp_path)]) == 1
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_source_reads_the_config_as_it_was_run(finished, tmp_path):
  from scripts.drawing.source import open_source

  path, _ = finished
  source = open_source(NAME, path, tmp_path, 10)
  assert isinstance(source, Source) and source.config.network.widths == (16, 16)
  row, grid = source.sampler("ddim:5:eta=0.3")
  assert (row.sampler, row.num_steps, row.options["eta"]) == ("ddim", 5, 0.3)
  assert float(grid[0].sigma) == pytest.approx(10.0)
  (wide,) = source.rows("ddim:5", sigma_max=80.0)
  assert float(wide.grid[0].sigma) == pytest.approx(80.0)


def test_fields_that_are_younger_than_a_run_have_their_defaults():
  fields = base.get_config().to_dict()
  recorded = base.get_config().to_dict()
  del recorded["training"]["sharding"]
  recorded["seed"] = 3
  assert source._completed(recorded, fields) == fields | {"seed": 3}
