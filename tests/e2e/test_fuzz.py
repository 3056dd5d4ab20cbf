"""Configs and command lines that nobody would write: each runs, or is refused in one line.

Each case changes one to three things of a config that runs, and is known by its number: `make_case`
makes it again. The whole of main.py is the judge, in a process of its own; see `forked_main`.
"""

import functools
import os
import random
import shlex
import shutil
import subprocess
import sys
from importlib import import_module

import pytest
from ml_collections import ConfigDict

from configs import base
from scorelab import losses, metrics, networks, predictions, samplers, schedules, targets
from scorelab.data.points import FILES
from scorelab.experiment import sampler_spec as rows
from scorelab.optimizers import DECAYS, RULES
from scorelab.runs.sharding import SHARDINGS
from tests.forked_main import Result

# Configs by how their smallest network is asked for.
TINY = ("width=8", "depth=1", "num_features=4")
BASES = {
  "ncsn_gmm": TINY,
  "edm_gmm": TINY,
  "cond_gmm": TINY,
  "ddpm_circles": TINY,
  "flow_moons": TINY,
  "consistency_gmm": TINY,
  "ssm_vr_gmm": ("width=8", "depth=1"),
  "hyvarinen_gmm_published": ("widths=(8,8,8)",),
  "diffusion2015_swissroll": ("widths=(8,8)", "head_widths=(8,)"),
  "sbgm_digits": ("widths=(8,8,8)",),
  "dit_digits": ("width=8",),
  "mala_gmm": (),
}
SHORT = ("num_steps=2", "log_every=1", "checkpoint_every=2", "keep_every=0", "batch_size=8")
SHORT += ("num_validation=8", "validation_repeats=1")

NAMES = {
  "target.name": targets.TARGETS | FILES,
  "schedule.name": schedules.SCHEDULES,
  "network.name": networks.NETWORKS,
  "network.activation": networks.ACTIVATIONS,
  "network.level_features": networks.LEVEL_FEATURES,
  "network.dtype": ("bfloat16", "float32", "float16", "int32"),
  "network.attention": ("('full', 'none')", "('none',)"),
  "parameterization.name": {**predictions.PARAMETERIZATIONS, "exact": None},
  "parameterization.conditioning": predictions.CONDITIONINGS,
  "loss.name": losses.LOSSES,
  "loss.levels": losses.LEVELS,
  "loss.uniforms": losses.UNIFORMS,
  "loss.weighting": losses.WEIGHTINGS,
  "loss.score_weighting": losses.SCORE_WEIGHTINGS,
  "loss.spacing": schedules.GRIDS,
  "optimizer.name": RULES,
  "optimizer.decay": DECAYS,
  "training.monitor": ("val_loss", "score_error"),
  "training.sharding": SHARDINGS,
  "sampler.name": {**samplers.SAMPLERS, **samplers.KERNELS},
  "sampler.grid": schedules.GRIDS,
  "sampler.guidance": rows.GUIDANCES,
  "sampler.clipping": rows.CLIPPINGS,
  "evaluation.reference": ("fresh", "train", "test"),
  "evaluation.checkpoint": ("last", "best"),
  "evaluation.likelihood_method": ("heun", "rk4", "adaptive"),
  "evaluation.metrics": [f"('{name}',)" for name in metrics.METRICS],
  "evaluation.rows": [f"('{name}:2',)" for name in (*samplers.SAMPLERS, *samplers.KERNELS)],
  "matmul_precision": ("float32", "default", "tensorfloat32", "bfloat16"),
}
NUMBERS = (
  "-1",
  "0",
  "1",
  "2",
  "3",
  "4",
  "7",
  "64",
  "1000000",
  "1000000000",
  "2147483648",
  str(10**20),
)
NUMBERS += (
  "-0.5",
  "0.0",
  "1e-30",
  "0.1",
  "0.5",
  "0.9",
  "1.0",
  "1.5",
  "20.0",
  "1e10",
  "1e30",
  "1e400",
)
NUMBERS += ("nan", "inf", "-inf")
JUNK = (
  "",
  " ",
  "abc",
  "None",
  "True",
  "False",
  "()",
  "(1,)",
  "(1,2)",
  "(0.5,0.9)",
  "(True, False)",
)
JUNK += (
  "('a',)",
  "(None,)",
  "(-1, 0)",
  "((1,), 2)",
  "[1, 2]",
  "{}",
  "1,2",
  "'x'",
  "1e",
  "0x10",
  "1_0",
)
JUNK += ("(", "\n", "\x01", "ü", "--", "=", "a=b", "$HOME", "%s", "{0}", "lambda: 1", "x" * 300)
SPECS = ("", ":", "heun", "heun:", "heun:0", "heun:2:", "heun:2:x", "heun:2:churn", "heun:2:churn=")
SPECS += ("heun:2:churn=a", "heun:2:churn=(1,)", "heun:2:nosuch=1", "heun:2:churn=nan", "heun:-2")
SPECS += ("heun:2:grid=nosuch", "ddim:2:eta=-1", "ddim:2:eta=inf", "ddim:2:name=heun", "ula:2")
SPECS += ("ddim:2:num_steps=3", "ddim:99999999999", "ddim:²", "ddim:2:guidance=classifier_free")
SPECS += ("ddim:2:eta=None", "dpmpp_2m:2:order=5", "lms:2:order=3", "heun:2:sigma_min=100.0")
METRIC_SPECS = ("", ":", "frechet", "frechet:", "wasserstein:p=0", "sliced_wasserstein:p=a")
METRIC_SPECS += (
  "sliced_wasserstein:p=-1",
  "sliced_wasserstein:p=None",
  "mmd:x=1",
  "frechet:features=",
)
METRIC_SPECS += ("frechet:features=os.system", "frechet:features=nosuch", "energy_distance:p=1")
OVER = ("", "=", "a=1", "seed=1,2", "optimizer.learning_rate", "optimizer.learning_rate=1e-3,1e-3")
OVER += ("optimizer.learning_rate=-1,1", "optimizer.learning_rate=1e-3,1e-2", "loss.name=a,b")
OVER += (
  "sampler.sigma_min=0.1,nan",
  "network.width=8,16",
  "schedule.rho=0,1",
  ";;",
  "training=1,2",
)
SPECIAL = {
  "evaluation.rows": [[repr((spec,)) for spec in SPECS]] * 4,
  "evaluation.metrics": [[repr((spec,)) for spec in METRIC_SPECS]] * 4,
  "ensemble.over": [OVER] * 6,
}
FIELDS = {
  f"{section}.{name}" if isinstance(part, ConfigDict) else section: kind
  for section, part in base.get_config().items()
  for name, kind in (
    [(name, part.get_type(name)) for name in part]
    if isinstance(part, ConfigDict)
    else [("", type(part))]
  )
}

# What is typed into a config file, after `config` is made.
STATEMENTS = (
  "config.training.num_steps = 'two'",
  "config.optimizer.learning_rate = None",
  "config.optimizer.ema_decays = 0.9",
  "config.optimizer.ema_decays = ('0.9',)",
  "config.optimizer.ema_decays = (0.9, 0.9)",
  "config.network = None",
  "config.loss = 3",
  "config.seed = None",
  "config.seed = 1.5",
  "config.training = {'num_steps': 2}",
  "config.sampler = base.get_config().loss",
  "config.loss, config.sampler = config.sampler, config.loss",
  "config.nosuch = 1",
  "config.training.nosuch = 1",
  "del config.loss",
  "del config.training.batch_size",
  "del config.sampler.grid",
  "config.update(network={'width': 8, 'nosuch': 2})",
  "config.evaluation.rows = 'heun:2'",
  "config.evaluation.rows = (('heun', 2),)",
  "config.evaluation.rows = None",
  "config.evaluation.metrics = 'frechet'",
  "config.evaluation.metrics = (None,)",
  "config.evaluation.score_levels = ('a',)",
  "config.evaluation.score_levels = (float('nan'),)",
  "config.evaluation.score_levels = (-1.0,)",
  "config.network.widths = ('a',)",
  "config.network.widths = (1.5,)",
  "config.target.weights = ()",
  "config.target.name = None",
  "config.target.name = ('nine_modes',)",
  "config.target.name = ['nine_modes']",
  "config.sampler.log_snrs = ('a',)",
  "config.sampler.eta = {}",
  "config.training.batch_size = True",
  "config.training.batch_size = 10**30",
  "config.training.log_every = 0.5",
  "config.seed = 2**64",
  "config.matmul_precision = None",
  "config.loss.name = b'ncsn'",
  "config.schedule.sigma_min = object()",
  "config.schedule.sigma_min = lambda: 1",
  "config = None",
  "config = 3",
  "config = {}",
  "config = config.to_dict()",
  "config = base.ConfigDict()",
  "raise ValueError('two\\nlines')",
  "raise RuntimeError",
  "raise KeyError('x')",
  "assert False",
  "1 / 0",
  "import nosuch_module",
  "undefined",
  "config.training.num_steps.x = 3",
  "pass",
)
# Whole files.
WHOLE_FILES = (
  b"",
  b"def get_config(:",
  b"get_config = 3",
  b"def get_config(): return 1",
  b"def get_config(arg, other): return arg",
  b"import nosuch_module",
  b"x = (",
  b"\xff\xfe\x00",
  b"def get_config(arg=''):\nreturn 1",
  b"def get_config(arg=''):\n  return get_config(arg)",
  b"\x00",
)
# Besides the config and the workdir; {} is a folder of its own.
COMMANDS = (
  ["--mode"],
  ["--mode="],
  ["--mode=Train"],
  ["--mode=eval"],
  ["--mode=train", "--mode=eval"],
  ["--workdir"],
  ["--workdir="],
  ["--workdir={}/file"],
  ["--workdir={}/file/run"],
  ["--workdir=/proc/nosuch"],
  ["--workdir=" + "x" * 300],
  ["--workdir={}/a\nb"],
  ["--config"],
  ["--config="],
  ["--config=:"],
  ["--config=configs"],
  ["--config=configs/ncsn_gmm"],
  ["--config=configs/base.py"],
  ["--config={}/file"],
  ["--config=configs/ncsn_gmm.py:"],
  ["--config=configs/ncsn_gmm.py:fast:fast"],
  ["--config=configs/pretrained.py", "--mode=eval"],
  ["--config=configs/ddpm_flowers.py:fast"],
  ["--config.=1"],
  ["--config..=1"],
  ["--config.seed"],
  ["--config.seed="],
  ["--config.seed=1", "--config.seed=2"],
  ["--config.seed", "3"],
  ["--config.training"],
  ["--config.training="],
  ["--config.training.num_steps.x=3"],
  ["--config.evaluation.rows[0]=heun:2"],
  ["--config.evaluation.rows[9]=heun:2"],
  ["--config.to_dict=1"],
  ["--config.__class__=1"],
  ["--noconfig.seed"],
  ["--noconfig"],
  ["--nosuch"],
  ["--no"],
  ["-x"],
  ["-"],
  ["--"],
  ["--", "word"],
  ["word"],
  ["--tensorboard=maybe"],
  ["--num_processes=2"],
  ["--num_processes=two"],
  ["--coordinator=nowhere"],
  ["--process_id=0"],
  ["--distributed=x"],
  ["--flagfile=nosuch"],
  ["--flagfile={}/file"],
  ["--undefok=nosuch"],
)


@functools.cache
def set_fields(name):
  """The fields that a base config sets."""
  config = import_module(f"configs.{name}").get_config("fast")
  return [
    field
    for field in FIELDS
    if (config[field] if "." not in field else config[field.split(".")[0]][field.split(".")[1]])
    is not None
  ]


def make_case(number):
  """The case of a number: (arguments, the text of a config file or None)."""
  rng = random.Random(number)
  name = rng.choice(sorted(BASES))
  arguments = [f"--config=configs/{name}.py:fast", "--mode=train"]
  arguments += [f"--config.training.{change}" for change in SHORT]
  arguments += [f"--config.network.{change}" for change in BASES[name]]
  if rng.random() < 0.5:
    arguments.append("--config.evaluation.rows=()")
  text = None
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    kind = rng.choice(["set"] * 12 + ["statement"] * 3 + ["command"] * 2 + ["file"])
    if kind == "set":
      arguments.append(assignment(rng, name))
    elif kind == "command":
      arguments += rng.choice(COMMANDS)
    elif text is None:
      text = rng.choice(WHOLE_FILES) if kind == "file" else typed(rng, name)
  return arguments, text


def assignment(rng, name):
  """--config.FIELD=VALUE, more often of a field that the config uses."""
  field = rng.choice(set_fields(name) if rng.random() < 0.6 else sorted(FIELDS))
  if rng.random() < 0.25:
    field = rng.choice(sorted(NAMES))
  pools = [NUMBERS, NUMBERS, JUNK] if FIELDS[field] in (int, float) else [JUNK, NUMBERS]
  if field in NAMES:
    known = sorted(NAMES[field])
    pools += [known] * 4 + [[known[0][:-1], known[-1] + "s", known[0].upper()]]
  pools += SPECIAL.get(field, [])
  if rng.random() < 0.1:  # what another field would take
    pools = [sorted(NAMES[rng.choice(sorted(NAMES))])]
  value = rng.choice(rng.choice(pools))
  if rng.random() < 0.03:
    field = rng.choice((field[:-1], field + "s", field + ".x", field.replace(".", "_")))
  return f"--config.{field}={value}"


def typed(rng, name):
  """A config file that changes one of ours by a statement, with its types checked or not."""
  free = "  with config.unlocked(), config.ignore_type():\n  " if rng.random() < 0.5 else ""
  return (
    f"from configs import base, {name}\n\ndef get_config(arg=''):\n"
    f"  config = {name}.get_config(arg)\n{free}  {rng.choice(STATEMENTS)}\n  return config\n"
  ).encode()


STOPS = ("training stopped: ", "out of memory: ")


def verdict(result, workdir):
  """'ran', 'refused', 'stopped' (a run that says why, code 1), or what is wrong."""
  lines = [line for line in result.stderr.splitlines() if line.strip()]
  if result.timed_out:  # asked for many steps it would still go on
    lines = workdir / "metrics.jsonl"
    return "ran" if lines.exists() and len(lines.read_text().splitlines()) >= 2 else "hangs"
  if "Traceback" in result.stderr or result.returncode < 0:
    return f"code {result.returncode}: {lines[-1][:200] if lines else ''}"
  if result.returncode == 0:
    return "ran"
  left = workdir.exists() and (not workdir.is_dir() or sorted(os.listdir(workdir)))
  if result.returncode == 2:
    if len(lines) != 1:
      return f"{len(lines)} lines: {lines}"
    return f"leaves {left}" if left else "refused"
  if result.returncode == 1 and any(words in lines[-1] for words in STOPS):
    return "stopped"
  return f"code {result.returncode}: {lines}"


def prepare(number, folder):
  """The arguments of a case whose files are in a folder."""
  arguments, text = make_case(number)
  folder.mkdir()
  (folder / "file").write_text("no config\n")
  arguments = [argument.replace("{}", str(folder)) for argument in arguments]
  if text is not None:
    (folder / "typed.py").write_bytes(text)
    arguments[0] = f"--config={folder / 'typed.py'}:fast"
  return [arguments[0], f"--workdir={folder / 'run'}", *arguments[1:]]


FINE = ("ran", "refused", "stopped")


def wrong(run, numbers, folder):
  """What is wrong with which of the cases, each with its command."""
  found = []
  for number in numbers:
    arguments = prepare(number, folder / str(number))
    said = verdict(run(arguments), folder / str(number) / "run")
    if said not in FINE:
      found.append(f"case {number}: {said}\n  main.py {shlex.join(arguments)}")
    shutil.rmtree(folder / str(number))
  return found


def test_a_few_cases(forked, tmp_path):
  assert not wrong(forked.run, range(24), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_two_thousand_cases(block, forked, tmp_path):
  assert not wrong(forked.run, range(100 * block, 100 * (block + 1)), tmp_path)


@pytest.mark.slow
def test_a_process_that_was_not_forked_says_the_same(forked, tmp_path):
  """The verdicts of plain command lines are those of the forked ones."""

  def plain(arguments):
    command = [sys.executable, "main.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return Result(done.returncode, done.stdout, done.stderr, timed_out=False)

  for number in range(40):
    said = []
    for run in (plain, forked.run):
      folder = tmp_path / str(number)
      said.append(verdict(run(prepare(number, folder)), folder / "run"))
      shutil.rmtree(folder)
    assert said[0] == said[1] in FINE
