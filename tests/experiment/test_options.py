"""Names of parts: of the registries, and of one's own by a dotted name."""

import sys

import pytest

from configs import ncsn_gmm
from scorelab.config.options import choose
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.predictions.guidance import GUIDANCES
from scorelab.samplers import SAMPLERS

MODULE = """
import dataclasses

from scorelab.networks.mlp import MLP
from scorelab.predictions import PARAMETERIZATIONS
from scorelab.losses.denoising import ncsn
from scorelab.losses.levels import log_normal
from scorelab.samplers.ddim import ddim
from scorelab.samplers.langevin import ula
from scorelab.schedules.continuous import LinearFlow
from scorelab.schedules.grids import uniform
from scorelab.targets.mixtures import ring
import optax


def offset(key, x, y):
  return 1.5


def euler(key, predict, x, grid, *, eta=0.0):
  return ddim(key, predict, x, grid, eta=eta)


number = 3
rule = optax.scale_by_rms
noise = PARAMETERIZATIONS["noise"]
"""
OWN = {
  "target.name": "ring",
  "schedule.name": "LinearFlow",
  "network.name": "MLP",
  "parameterization.name": "noise",
  "loss.name": "ncsn",
  "loss.levels": "log_normal",
  "optimizer.name": "rule",
  "sampler.name": "euler",
  "sampler.grid": "uniform",
}


@pytest.fixture
def module(tmp_path, monkeypatch):
  """The name of a module in the current directory."""
  name = f"own_{tmp_path.name}"
  (tmp_path / f"{name}.py").write_text(MODULE)
  (tmp_path / f"{name}_fails.py").write_text("import os\n\nx = undefined\n")
  (tmp_path / f"{name}_broken.py").write_text("x = (\n")
  (tmp_path / f"{name}_lacks.py").write_text("import nosuchpackage\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # put back afterwards
  return name


@pytest.mark.e2e
def test_every_kind_of_part_may_be_ones_own(module):
  """All of them in one experiment: what is built is what the module has."""
  config = ncsn_gmm.get_config("fast")
  for section in ("target", "schedule", "network", "parameterization", "loss", "sampler"):
    for field in config[section]:
      if field not in ("name", "num_train", "num_steps", "conditioning", "grid"):
        with config[section].unlocked():
          config[section][field] = None
  for field, name in OWN.items():
    section, option = field.split(".")
    config[section][option] = f"{module}.{name}"
  config.sampler.t_max = 0.99  # the network has no value at alpha = 0
  config.optimizer.update(b1=None, b2=None, eps=None)
  config.evaluation.update(rows=(f"{module}.ula:5:step_size=0.01",), score_levels=())
  config.evaluation.metrics = (f"{module}.offset",)
  experiment = build(config)
  assert type(experiment.schedule).__name__ == "LinearFlow"
  assert len(experiment.target.weights) == 8
  chain, own = experiment.evaluation.rows[1], experiment.evaluation.rows[0]
  assert (own.sampler, own.grid.num_steps) == (f"{module}.euler", config.sampler.num_steps)
  assert (chain.sampler, chain.grid) == (f"{module}.ula", None)
  assert experiment.evaluation.metrics[f"{module}.offset"](None, None, None) == 1.5


REFUSED = {
  "module": (
    "nosuch.part",
    "there is no module 'nosuch' in the current directory or on PYTHONPATH",
  ),
  "submodule": ("{}.nosuch.part", "there is no module '{}.nosuch'"),
  "attribute": ("{}.eulr", "{} has no 'eulr'; did you mean 'euler'?"),
  "kind": ("{}.number", "is not a function or a class"),
  "error": ("{}_fails.part", "NameError: name 'undefined' is not defined ({}_fails.py, line 3)"),
  "syntax": ("{}_broken.part", "SyntaxError: '(' was never closed"),
  "package": ("{}_lacks.part", "ModuleNotFoundError: No module named 'nosuchpackage'"),
  "number": ("3.5", "is not a sampler (known: ancestral"),
  "plain": ("eulr", "is not a sampler; did you mean 'euler'? (known"),
}


@pytest.mark.parametrize(("name", "message"), REFUSED.values(), ids=REFUSED)
def test_a_name_that_leads_nowhere_is_one_line(name, message, module):
  with pytest.raises(ConfigError) as error:
    choose(SAMPLERS, name.replace("{}", module), "sampler.name", "sampler")
  assert str(error.value).startswith(f"sampler.name = {name.replace('{}', module)!r}")
  assert message.replace("{}", module) in str(error.value)
  assert "\n" not in str(error.value)


def test_a_part_is_of_its_registrys_type(module):
  with pytest.raises(ConfigError, match=r"must be a Guidance$"):
    choose(GUIDANCES, f"{module}.euler", "sampler.guidance", "guidance")


def test_choices_that_are_no_parts_are_not_imported(module):
  with pytest.raises(ConfigError, match="is not a decay"):
    choose({"cosine": len}, f"{module}.euler", "optimizer.decay", "decay", own=False)
  with pytest.raises(ConfigError, match="known: best, last"):
    choose({"last": "last", "best": "best"}, "my.last", "evaluation.checkpoint", "checkpoint")
