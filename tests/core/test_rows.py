"""Rows of an evaluation: one for each set of settings, with labels that are all different."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import ncsn_gmm
from scorelab import evaluation
from scorelab.evaluation import ensemble_figures
from scorelab.evaluation import ensembles as ensemble_evaluation
from scorelab.evaluation import figures as summary
from scorelab.evaluation.table import format_table, row_labels
from scorelab.experiment.build import build
from scorelab.experiment.sampler_spec import make_labels
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.training import ensembles
from scorelab.training.ensembles import Member

OPTIONS = st.dictionaries(
  st.sampled_from(["eta", "rho", "grid"]), st.sampled_from([0, 1.0, "karras", "uniform"])
)
ROWS = st.lists(st.tuples(st.sampled_from(["ddim", "heun"]), st.sampled_from([8, 16]), OPTIONS))


def config_of(rows, **sampler):
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=16, depth=1, num_features=8)
  config.training.update(num_steps=0, num_validation=64)
  config.sampler.update(sampler)
  config.evaluation.update(rows=rows, metrics=("energy_distance",), score_levels=(0.1, 1.0))
  config.evaluation.update(num_keys=2, num_samples=50, num_reference=50, score_samples=32)
  return config


@given(ROWS.filter(bool))
def test_labels_are_all_different(rows):
  labels = make_labels(rows)
  assert len(set(labels)) == len(rows)
  for label, (sampler, num_steps, _) in zip(labels, rows, strict=True):
    assert label.startswith(f"{sampler}-{num_steps}")


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("rows", "labels"),
  [
    (("heun:4", "heun:8"), ["heun-4", "heun-8"]),
    (("heun:4:rho=7", "heun:8"), ["heun-4", "heun-8"]),  # the grid's own rho, as an int
    (("heun:4:rho=3.0",), ["heun-4-rho=7.0", "heun-4-rho=3.0"]),
    (("ddim:4:eta=1", "heun:4", "ddim:4:eta=1.0"), ["heun-4", "ddim-4-eta=1"]),
    (("heun:8", "heun:8"), ["heun-4", "heun-8"]),
  ],
)
def test_equal_rows_are_dropped(rows, labels):
  experiment = build(config_of(rows, name="heun", num_steps=4, grid="karras", rho=7.0))
  assert [row.label for row in experiment.evaluation.rows] == labels


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, quick_compilation):
  """A main sampler that evaluation.rows names again: `--config.sampler.name=heun`."""
  experiment = build(config_of(("heun:4", "ddim:4"), name="heun", num_steps=4))
  workdir = open_workdir(tmp_path_factory.mktemp("run"), experiment.config, {})
  params = experiment.init_params(experiment.root)
  return experiment, workdir, evaluation.evaluate(experiment, params, workdir, StopFlag())


@pytest.mark.e2e
def test_labels_are_stored_and_name_the_samples(evaluated):
  _, workdir, result = evaluated
  labels = [row["label"] for row in json.loads(workdir.evaluation.read_text())["rows"]]
  assert labels == row_labels(result["rows"]) == ["heun-4", "ddim-4"]
  with np.load(workdir.samples) as arrays:
    assert arrays.files == ["exact", "reference", *labels]
  lines = format_table(result).splitlines()
  assert [line.split()[0] for line in lines[1:3]] == labels


@pytest.mark.e2e
def test_a_run_from_before_labels_were_stored_is_read(evaluated, tmp_path):
  """Also one with two rows of one name, which then shared a place in samples.npz."""
  experiment, workdir, result = evaluated
  old = open_workdir(tmp_path, experiment.config, {})
  rows = [{k: v for k, v in row.items() if k != "label"} for row in result["rows"]]
  rows.insert(1, rows[0])
  old.evaluation.write_text(json.dumps(result | {"rows": rows}))
  old.samples.write_bytes(workdir.samples.read_bytes())
  assert row_labels(rows) == ["heun-4", "heun-4-2", "ddim-4"]
  assert len(format_table(result | {"rows": rows}).split("\n\n")[0].splitlines()) == 4
  assert summary.kept_rows(old) == {"heun-4": "heun", "ddim-4": "ddim"}
  assert [cloud.title.split("\n")[0] for cloud in summary.run_clouds(experiment, old)] == [
    "exact samples",
    "heun-4",
    "ddim-4",
  ]
  axes = summary.budget_figure(result | {"rows": rows}).axes
  assert len(axes[0].get_yticklabels()) == 3


@pytest.mark.e2e
def test_members_of_an_ensemble_have_the_same_rows(tmp_path, quick_compilation):
  """At eta = 1 the main sampler equals the row that says so; at eta = 0 it does not."""
  config = config_of(("ddim:4:eta=1.0", "ddim:4"), name="ddim", num_steps=4)
  config.ensemble.over = "sampler.eta=0,1"
  ensemble = ensembles.build(config)
  labels = [[r.label for r in m.experiment.evaluation.rows] for m in ensemble.members]
  assert labels == [["ddim-4-eta=0.0", "ddim-4-eta=1.0"], ["ddim-4", "ddim-4-2"]]
  for member in ensemble.members:
    here = member.experiment.at(member.over)
    assert len(here.evaluation.rows) == 2
  result = combined(ensemble.members)
  names = [row["label"] for row in result["rows"]]
  assert len(set(names)) == 4
  figure = ensemble_figures.over_figure(result, "sampler.eta")
  lines = {c.get_label(): c.lines[0].get_ydata().tolist() for c in figure.axes[0].containers}
  # The line of the row that has an eta of its own does not cross the main sampler's.
  assert lines == {"ddim 4": [0, 2], "ddim 4 eta=1.0": [1, 3]}


def combined(members: tuple[Member, ...]):
  """The ensemble's result where the rows' values are 0, 1, 2, ..."""
  tables, value = {}, 0
  for member in members:
    rows = []
    for row in member.experiment.evaluation.rows:
      numbers = dict.fromkeys(("sem", "floor", "floor_sem"), None) | {"value": value}
      rows.append(
        {
          "label": row.label,
          "sampler": row.sampler,
          "options": row.options,
          "num_steps": row.num_steps,
          "nfe": 4,
          "metrics": {"energy_distance": numbers},
        }
      )
      value += 1
    protocol = {"num_keys": 2, "num_samples": 50, "num_reference": 50}
    protocol |= {"reference": "fresh", "num_projections": 20}
    tables[member.name] = {"protocol": protocol, "rows": rows}
  return ensemble_evaluation.combine(members, tables)
