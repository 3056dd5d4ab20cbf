"""Data parallelism: the numbers of one device, on eight pretended ones and in two processes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from configs import ncsn_gmm
from scorelab import training
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_devices
from scorelab.experiment.keys import Stream
from scorelab.runs.files import read_jsonl
from scorelab.runs.lock import hold
from scorelab.runs.sharding import ONE_DEVICE, Layout
from scorelab.runs.workdir import open_workdir
from scorelab.training import throughput
from scorelab.typing import Context


@pytest.mark.parametrize(
  "what",
  ["points", *(pytest.param(name, marks=pytest.mark.slow) for name in ("accumulated", "images"))],
)
def test_eight_devices_give_the_numbers_of_one(what):
  """Losses of 20 steps to 1e-5 (float32 sums in another order), an eighth of the work on each.

  An eighth and up to as much again: what small arrays need, and the optimiser, is done everywhere.
  Of accumulated parts XLA counts one, of the optimiser all, which then weighs more. Split over the
  devices, every array of 1024 numbers or more leaves an eighth on each.
  """
  found = json.loads(
    subprocess.run(
      [sys.executable, "tests/eight_devices.py", what],
      env=os.environ | {"PYTHONPATH": "."},
      capture_output=True,
      text=True,
      check=True,
    ).stdout
  )
  one = found["losses"].pop("one")
  assert len(one) == 20
  for losses in found["losses"].values():
    np.testing.assert_allclose(losses, one, rtol=1e-5)
  for way in ("replicated", "fsdp"):
    assert found["flops"][way] < found["flops"]["one"] / (3 if what == "accumulated" else 4)
  assert {share for _, share in found["shares"]["replicated"]} == {1.0}
  assert {share for size, share in found["shares"]["fsdp"] if size >= 1024} == {1 / 8}
  if found["samples"]:
    alone, spread = found["samples"]
    assert len(alone) == 20
    np.testing.assert_allclose(spread, alone, rtol=1e-5, atol=1e-5)


def test_arrays_are_split_along_the_longest_axis_that_divides():
  layout = Layout(AbstractMesh((8,), ("data",), axis_types=(AxisType.Auto,)), fsdp=True)
  assert layout.state_spec((3, 3, 64, 128)) == PartitionSpec(None, None, None, "data")
  assert layout.state_spec((4096, 30)) == PartitionSpec("data")
  assert layout.state_spec((63, 65)) == PartitionSpec()
  assert layout.state_spec((64,)) == PartitionSpec()


def small_config(**fields):
  config = ncsn_gmm.get_config("fast")
  config.network.update(width=16, depth=1, num_features=8)
  config.training.update(num_steps=12, log_every=2, checkpoint_every=4, batch_size=32)
  config.training.update(num_validation=64, **fields)
  return config


def test_accumulated_gradients_are_the_mean_of_the_parts():
  """Against a loop over every fourth point, each part with its own key."""
  experiment = build(small_config(accumulate=4))
  state = training.init_state(experiment)
  batch = {"x": experiment.target.sample(jax.random.key(1), 32)}
  key = experiment.key(Stream.LOSS, 0)
  context = Context(state.step, state.ema)
  accumulate = jax.jit(
    lambda params: training.loss_and_gradient(experiment, ONE_DEVICE, params, key, batch, context)
  )
  (loss, metrics), grads = accumulate(state.params)

  @jax.jit
  def of_part(params, key, x):
    return jax.value_and_grad(experiment.loss, has_aux=True)(params, key, {"x": x}, context)

  keys = jax.random.split(key, 4)
  parts = [of_part(state.params, keys[i], batch["x"][i::4]) for i in range(4)]
  np.testing.assert_allclose(loss, np.mean([part[0][0] for part in parts]), rtol=1e-6)
  band = [part[0][1]["band_loss"].total for part in parts]
  np.testing.assert_allclose(metrics["band_loss"].total, np.mean(band, axis=0), rtol=1e-5)
  mean = jax.tree.map(lambda *g: np.mean(g, axis=0), *(part[1] for part in parts))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, mean)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"accumulate": 5}, r"batch_size = 32 must be a multiple of training.accumulate = 5"),
    ({"sharding": "fsd"}, r"training.sharding = 'fsd' is not a sharding; did you mean 'fsdp'"),
  ],
)
def test_what_cannot_be_dealt_out_is_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    check_devices(build(small_config(**fields)))


def test_the_average_that_is_measured_is_chosen():
  config = small_config()
  config.optimizer.ema_decays = (0.9, 0.99)
  state = training.init_state(build(config))
  state = state.replace(ema={"0.9": {"w": 1.0}, "0.99": {"w": 2.0}}, params={"w": 3.0})
  chosen = [training.evaluated_params(state, decay)["w"] for decay in (None, 0.9, 0.99, 0.0)]
  assert chosen == [2.0, 1.0, 2.0, 3.0]
  config.evaluation.ema = 0.95
  with pytest.raises(ConfigError, match=r"evaluation.ema = 0.95 is not in optimizer.ema_decays"):
    build(config)


def test_operations_are_counted_and_the_peak_is_measured():
  """2 m n k of a product, a step's once however long the chunk; a CPU core does above 1 GFLOP/s."""
  a, b = jax.numpy.ones((64, 32)), jax.numpy.ones((32, 16))

  def repeated(a, b):
    return jax.lax.scan(lambda c, _: (c + a @ b, None), jax.numpy.zeros((64, 16)), length=7)[0]

  once = 2 * 64 * 32 * 16
  assert once <= throughput.flops(jax.jit(repeated), a, b) < 1.1 * once
  found = throughput.report(10.0, 32, 1e6, "float32")
  assert found["examples_per_s"] == 320
  assert found["peak_flops_per_s"] > 1e9
  np.testing.assert_allclose(found["utilisation"], 1e7 / found["peak_flops_per_s"])


def start_processes(workdir, *arguments, count=2, program=("main.py",)):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  shared = ["--config=configs/ncsn_gmm.py:fast", f"--workdir={workdir}", *arguments]
  shared += ["--config.network.width=16", "--config.network.depth=1"]
  shared += ["--config.training.num_steps=600", "--config.training.checkpoint_every=100"]
  shared += ["--config.training.batch_size=32", "--distributed", f"--coordinator=localhost:{port}"]
  return [
    subprocess.Popen(
      [sys.executable, *program, *shared, f"--num_processes={count}", f"--process_id={rank}"],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in range(count)
  ]


def run_all(workdir, *arguments, count=2):
  """Starts processes and waits for them; once more where the machine stood still for too long.

  Then all of them have missed their heartbeats, and go on from the last checkpoint.
  """
  for _ in range(3):
    processes = start_processes(workdir, *arguments, count=count)
    try:
      errors = [process.communicate(timeout=900)[1] for process in processes]
    finally:
      for process in processes:
        process.kill()
    if not any("stopped sending heartbeats" in text for text in errors):
      break
  assert [process.returncode for process in processes] == [0] * count, "\n".join(errors)


def wait_for_lines(workdir, processes, count=8):
  """metrics.jsonl, once it has so many lines; the processes still run."""
  metrics = workdir / "metrics.jsonl"
  while not (metrics.exists() and metrics.read_text().count("\n") > count):
    assert all(process.poll() is None for process in processes)
    time.sleep(0.02)
  return metrics


def last_state(workdir):
  recorded = json.loads((workdir / "config.json").read_text())["config"]
  config = small_config()
  config.network.num_features = None
  config.training.update(recorded["training"])
  config.network.update(width=16, depth=1)
  experiment = build(config)
  return training.restore_trained(experiment, open_workdir(workdir, experiment.config, {}))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_two_processes_are_killed_and_resume(sharding, tmp_path):
  """kill -9 of both in mid-run: afterwards the bits are those of an uninterrupted run.

  One process alone reads the checkpoint that two have written.
  """
  option = f"--config.training.sharding={sharding}"
  run_all(tmp_path / "straight", "--mode=train", option)
  killed = start_processes(tmp_path / "killed", "--mode=train", option)
  metrics = wait_for_lines(tmp_path / "killed", killed)
  for process in killed:
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert metrics.read_text().count("\n") < 60
  run_all(tmp_path / "killed", "--mode=train", option)
  assert metrics.read_text() == (tmp_path / "straight" / "metrics.jsonl").read_text()
  states = [last_state(tmp_path / name) for name in ("straight", "killed")]
  jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dead"), [(2, 0), (4, 3)])
def test_a_dead_process_ends_the_others(count, dead, tmp_path):
  """Within a minute and with a line that says so; then the bits are an uninterrupted run's.

  And those are one process's losses to 1e-5: sums are taken in another order.
  """
  alone, straight, killed = (tmp_path / name for name in ("alone", "straight", "killed"))
  run_all(alone, "--mode=train", count=1)
  run_all(straight, "--mode=train", count=count)
  processes = start_processes(killed, "--mode=train", count=count)
  metrics = wait_for_lines(killed, processes)
  processes.pop(dead).send_signal(signal.SIGKILL)
  died = time.monotonic()
  for process in processes:
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    # From the failed call, or from JAX if it aborts the process first.
    assert "go on from the last checkpoint" in errors or "another task died" in errors, errors
  assert time.monotonic() - died < 60
  run_all(killed, "--mode=train", count=count)
  assert metrics.read_text() == (straight / "metrics.jsonl").read_text()
  losses = [
    [line["loss"] for line in read_jsonl(workdir / "metrics.jsonl")]
    for workdir in (alone, straight)
  ]
  np.testing.assert_allclose(*losses, rtol=1e-5)


# main.py, which says at which step it saves; in all processes but the first one the clock that
# chunks are measured with runs a thousand times as fast.
SAYING = """
import runpy, sys, time, types
from scorelab.runs.checkpoints import Checkpoints
from scorelab.training import pace

if "--process_id=0" not in sys.argv:
  pace.time = types.SimpleNamespace(monotonic=lambda: 1000 * time.monotonic())
save = Checkpoints.save

def saying(self, step, *given):
  print(f"saves at {step}", file=sys.stderr)
  save(self, step, *given)

Checkpoints.save = saying
sys.argv[0] = "main.py"
runpy.run_path("main.py", run_name="__main__")
"""


@pytest.mark.slow
def test_one_of_two_processes_is_told_to_stop_and_both_do(tmp_path):
  """SIGTERM to the second: both save at one step, whatever their clocks say, and then resume."""
  processes = start_processes(tmp_path, "--mode=train", program=("-c", SAYING))
  try:
    wait_for_lines(tmp_path, processes, count=0)
    processes[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=300)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [75, 75], "\n".join(errors)
  steps = [[int(step) for step in re.findall(r"saves at (\d+)", text)] for text in errors]
  assert steps[0] == steps[1] and "Traceback" not in "".join(errors)
  assert f"{tmp_path}: stopped and saved" in errors[0]
  stopped = steps[0][-1]
  assert 0 < stopped < 600 and (tmp_path / "checkpoints" / f"{stopped:09d}").is_dir()
  logged = [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")]
  assert logged == list(range(logged[0], stopped + 1, logged[0]))
  run_all(tmp_path, "--mode=train")
  logged = [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")]
  assert logged == list(range(logged[0], 601, logged[0]))


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True])
def test_two_processes_evaluate(batched, tmp_path):
  """What one process alone draws, in batches of which each draws a half.

  To 1e-5, of the data's extent where coordinates are small: it is 10.
  """
  option = ["--config.evaluation.batch_size=64"] * batched
  run_all(tmp_path / "two", *option)
  assert (tmp_path / "two" / "DONE").exists()
  assert list((tmp_path / "two" / "figures").glob("*.png"))
  shutil.copytree(tmp_path / "two" / "checkpoints", tmp_path / "one" / "checkpoints")
  run_all(tmp_path / "one", *option, count=1)
  drawn = [dict(np.load(tmp_path / name / "samples.npz")) for name in ("two", "one")]
  assert len(drawn[0]) >= 3  # rows, exact samples and the reference
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), *drawn)


@pytest.mark.slow
def test_two_processes_are_refused_where_another_one_works(tmp_path):
  """The first one alone asks for the lock, and does not wait for the other one to end."""
  with hold(tmp_path):
    processes = start_processes(tmp_path, "--mode=train")
    errors = [process.communicate(timeout=120)[1] for process in processes]
  assert processes[0].returncode == 2
  assert f"process {os.getpid()} on" in errors[0]
  assert processes[1].returncode not in (0, None)
  assert not (tmp_path / "config.json").exists()
