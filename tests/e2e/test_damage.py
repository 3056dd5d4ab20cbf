"""A run whose newest checkpoint is damaged, file by file: it never goes on from other bits."""

import itertools
import pathlib
import shutil
import zlib

import jax
import numpy as np
import pytest
from absl import logging

from configs import ncsn_gmm
from scorelab import training
from scorelab.experiment.build import build
from scorelab.runs.checkpoints import Checkpoints, UnreadableError
from scorelab.runs.files import read_jsonl
from scorelab.runs.sharding import make_layout
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir

# Reading damaged files, Orbax leaves coroutines behind.
pytestmark = [
  pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
  pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]
STEPS = 12
NEWEST = f"{STEPS:09d}"


def flipped(data: bytes) -> bytes:
  """One bit, at a place that depends on the content."""
  if not data:
    return data
  place = zlib.crc32(data) % (8 * len(data))
  changed = bytearray(data)
  changed[place // 8] ^= 1 << place % 8
  return bytes(changed)


DAMAGES = {
  "truncated": lambda data: data[: len(data) // 2],
  "flipped": flipped,
  "deleted": lambda data: None,
  "emptied": lambda data: b"",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_compilation):
  """(program, experiment, folder, states by step) of a run with checkpoints of steps 4, 8, 12."""
  config = ncsn_gmm.get_config("fast")
  # Kernels of 20 x 20 and more are beyond what the nodes of Orbax's tree, and their CRC, hold.
  config.network.update(width=20, depth=1, num_features=8)
  config.training.update(num_steps=STEPS, log_every=2, checkpoint_every=4, batch_size=32)
  config.training.update(num_validation=64, keep_every=4)
  experiment = build(config)
  program = training.make_program(experiment, make_layout(None))
  workdir = open_workdir(tmp_path_factory.mktemp("run") / "run", experiment.config, {})
  training.train(experiment, workdir, StopFlag(), program)
  with Checkpoints(workdir.checkpoints, keep_every=4, read_only=True) as checkpoints:
    assert checkpoints.steps() == [4, 8, 12]
    template = program.init()
    states = {s: host(checkpoints.restore_step(template, s)) for s in checkpoints.steps()}
  return program, experiment, workdir.path, states


def host(state):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def files_of(folder: pathlib.Path, step: str = NEWEST) -> list[pathlib.Path]:
  root = folder / "checkpoints" / step
  return [path.relative_to(folder) for path in sorted(root.rglob("*")) if path.is_file()]


def damage(path: pathlib.Path, how: str) -> bool:
  """Whether there was anything to damage."""
  before = path.read_bytes()
  after = DAMAGES[how](before)
  path.unlink() if after is None else path.write_bytes(after)
  return after != before


def start_again(run, folder, monkeypatch):
  """(the step and bits that training starts from, warnings, the last state's bits)."""
  program, experiment, _, _ = run
  starts, warnings = [], []
  restore = Checkpoints.restore

  def noted(self, template):
    found = restore(self, template)
    starts.append(None if found is None else (found[1], host(found[0])))
    return found

  def warning(text, *args):
    warnings.extend([text % args] if "trying an older one" in text else [])

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "restore", noted)
    patch.setattr(logging, "warning", warning)
    workdir = open_workdir(folder, experiment.config, {})
    last = training.train(experiment, workdir, StopFlag(), program)
  return starts[0], warnings, host(last)


def assert_survived(run, folder, path, monkeypatch):
  """It starts from true bits, says what it passes over, and ends as the undamaged run did."""
  _, _, straight, states = run
  (step, bits), warnings, last = start_again(run, folder, monkeypatch)
  assert step in (8, 12) and bits == states[step], path
  assert len(warnings) == (step == 8), path
  assert all(f"step {STEPS}" in line and str(folder) in line for line in warnings)
  assert last == states[STEPS]
  metrics = [workdir / "metrics.jsonl" for workdir in (straight, folder)]
  assert metrics[0].read_bytes() == metrics[1].read_bytes(), path
  return step


def test_some_files_by_one_damage_each(run, tmp_path, monkeypatch):
  """All files and all damages are a slow test."""
  steps = []
  for path, how in zip(files_of(run[2])[::4], itertools.cycle(DAMAGES)):
    folder = shutil.copytree(run[2], tmp_path / "run")
    if damage(folder / path, how):
      steps.append(assert_survived(run, folder, path, monkeypatch))
    shutil.rmtree(folder)
  assert 8 in steps


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_every_file_by_every_damage(run, how, tmp_path, monkeypatch):
  tried = 0
  for path in files_of(run[2]):
    folder = shutil.copytree(run[2], tmp_path / "run")
    if damage(folder / path, how):
      assert_survived(run, folder, path, monkeypatch)
      tried += 1
    shutil.rmtree(folder)
  assert tried >= 10


def test_a_flipped_bit_anywhere_in_the_arrays_is_found(run, tmp_path, monkeypatch):
  """The largest file is where the weights are."""
  largest = max(files_of(run[2]), key=lambda path: (run[2] / path).stat().st_size)
  for place in np.random.default_rng(0).integers((run[2] / largest).stat().st_size, size=2):
    folder = shutil.copytree(run[2], tmp_path / "run")
    data = bytearray((folder / largest).read_bytes())
    data[place] ^= 16
    (folder / largest).write_bytes(data)
    assert_survived(run, folder, largest, monkeypatch)
    shutil.rmtree(folder)


@pytest.mark.parametrize("how", DAMAGES)
def test_one_checkpoint_alone_is_refused_and_not_begun_anew(run, how, tmp_path, monkeypatch):
  folder = shutil.copytree(run[2], tmp_path / "run")
  for step in (4, 8):
    shutil.rmtree(folder / "checkpoints" / f"{step:09d}")
  for path in files_of(folder):
    if "index" in path.parts:
      damage(folder / path, how)
  lines = read_jsonl(folder / "metrics.jsonl")
  with pytest.raises(UnreadableError, match="move the directory away to start again"):
    start_again(run, folder, monkeypatch)
  assert read_jsonl(folder / "metrics.jsonl") == lines
