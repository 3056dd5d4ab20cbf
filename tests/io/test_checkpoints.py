"""Checkpoints: bit for bit or not at all, whatever happens to the files and the process."""

import gc
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import textwrap

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging

from scorelab.runs.checkpoints import (
  CheckpointError,
  Checkpoints,
  DamagedError,
  _by_orbax,
  silence_orbax,
)
from tests.paths import ROOT

# Reading damaged files, Orbax leaves coroutines behind; `warnings` below collects them.
pytestmark = [
  pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
  pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


class State(flax.struct.PyTreeNode):
  step: jax.Array
  params: dict
  opt_state: tuple
  ema: dict


def make_state(seed: int, width: int = 32) -> State:
  # The kernel is large enough to be stored outside of the nodes for which Orbax keeps a CRC.
  rng = np.random.default_rng(seed)
  params = {"layer": {"kernel": rng.normal(size=(16, width)), "bias": np.full(3, np.nan)}}
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  opt_state = jax.tree.map(
    lambda x: jnp.asarray(10 * rng.normal(size=x.shape), x.dtype), optax.adam(1e-3).init(params)
  )
  ema = {
    "0.999": params,
    "0.9/x": {
      "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
      "mask": jnp.array([True, False]),
    },
  }
  return State(jnp.asarray(seed, jnp.int32), params, opt_state, ema)


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert isinstance(x, jax.Array) and not x.weak_type
    assert (x.dtype, x.shape, x.sharding) == (y.dtype, y.shape, y.sharding)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def fill(directory, steps, **options):
  with Checkpoints(directory, **options) as checkpoints:
    for step in steps:
      checkpoints.save(step, make_state(step))


def snapshot(directory) -> dict[str, bytes | None]:
  return {
    str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None
    for p in sorted(pathlib.Path(directory).rglob("*"))
  }


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
  """A directory with intact checkpoints of steps 1 and 2; copy it before touching it."""
  directory = tmp_path_factory.mktemp("two_steps")
  fill(directory, [1, 2])
  return directory


@pytest.fixture
def run(two_steps, tmp_path):
  return shutil.copytree(two_steps, tmp_path / "run")


@pytest.fixture
def warnings(monkeypatch):
  """The fallbacks' lines (Orbax logs a few of its own)."""
  lines = []

  def warning(text, *args):
    lines.extend([text % args] if "trying an older one" in text else [])

  monkeypatch.setattr(logging, "warning", warning)
  yield lines
  gc.collect()
  gc.collect()


def test_round_trip_is_bit_identical_and_donatable(run):
  state = make_state(2)
  with Checkpoints(run) as checkpoints:
    restored, step = checkpoints.restore(make_state(0))
    assert step == 2
    assert_same(restored, state)
    abstract = jax.eval_shape(lambda: make_state(0))
    assert_same(checkpoints.restore(abstract)[0], state)
    assert_same(checkpoints.restore_step(abstract, 1), make_state(1))
    jax.jit(
      lambda s: jax.tree.map(lambda x: ~x if x.dtype == bool else x + 1, s), donate_argnums=0
    )(restored)
    assert restored.params["layer"]["kernel"].is_deleted()
    assert_same(checkpoints.restore(abstract)[0], state)  # Donation wrote into nobody's memory.


def test_state_may_be_donated_right_after_save(tmp_path):
  bump = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = {"x": jnp.zeros(100_000) + 0.0}
  with Checkpoints(tmp_path) as checkpoints:
    for step in range(1, 4):
      x = {"x": bump(x["x"])}
      checkpoints.save(step, x)
      x = {"x": bump(x["x"])}
    for step in (2, 3):
      np.testing.assert_array_equal(checkpoints.restore_step(x, step)["x"], 2 * step - 1)


def test_fresh_directory(tmp_path):
  with Checkpoints(tmp_path / "a" / "b") as checkpoints:
    assert checkpoints.restore(make_state(0)) is None
    assert checkpoints.steps() == []
    assert checkpoints.latest_step() is checkpoints.best_step() is None
    with pytest.raises(CheckpointError, match="no checkpoint of step 3"):
      checkpoints.restore_step(make_state(0), 3)


@pytest.mark.parametrize("mode, best", [("min", 4), ("max", 2)])
def test_keeps_the_latest_two_and_the_best(tmp_path, mode, best):
  losses = [5.0, 9.0, 4.0, 1.0, float("nan"), 3.0, float("-inf"), float("inf")]
  with Checkpoints(tmp_path, mode=mode) as checkpoints:
    for step, loss in enumerate(losses[:7], 1):
      checkpoints.save(step, {"x": jnp.full(3, step)}, {"val_loss": loss, "other": 0})
    assert checkpoints.best_step() == best
  with Checkpoints(tmp_path, mode=mode) as checkpoints:  # The metrics outlive the process.
    assert checkpoints.best_step() == best
    checkpoints.save(8, {"x": jnp.full(3, 8)}, {"val_loss": losses[7]})
    checkpoints.wait()
    assert checkpoints.steps() == [best, 7, 8]
    assert {p.name for p in tmp_path.iterdir()} == {f"{s:09d}" for s in (best, 7, 8)}
    state = checkpoints.restore_step({"x": jnp.zeros(3, int)}, best)
    np.testing.assert_array_equal(state["x"], best)


def test_without_metrics_only_the_latest(tmp_path):
  with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, {"x": jnp.zeros(1)}, {"val_loss": float("nan")} if step == 1 else None)
    assert (checkpoints.steps(), checkpoints.best_step()) == ([3], None)


def test_saving_again(run):
  with Checkpoints(run) as checkpoints:
    before = snapshot(run)
    checkpoints.save(2, make_state(9))
    assert snapshot(run) == before
    shutil.rmtree(run / "000000001")
  with (
    Checkpoints(run) as checkpoints,
    pytest.raises(CheckpointError, match="step 1 is older than step 2"),
  ):
    checkpoints.save(1, make_state(1))


def flip(data: bytes, position: int) -> bytes:
  data = bytearray(data)
  data[position] ^= 1 << position % 8
  return bytes(data)


DAMAGES = {
  "deleted": lambda data: [None],
  "emptied": lambda data: [b""],
  "truncated": lambda data: [data[:-1], data[: len(data) // 2]],
  "zeroed": lambda data: [bytes(len(data))],
  "flipped": lambda data: [flip(data, i) for i in (len(data) // 3, len(data) // 2, len(data) - 1)],
}


@pytest.mark.e2e
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_gives_the_newest_or_the_older_bits(run, damage, warnings):
  template, states = make_state(0), {1: make_state(1), 2: make_state(2)}
  fallbacks = 0
  for path in [p for p in sorted((run / "000000002").rglob("*")) if p.is_file()]:
    data = path.read_bytes()
    for damaged in DAMAGES[damage](data):
      if damaged == data:
        continue
      path.unlink() if damaged is None else path.write_bytes(damaged)
      warnings.clear()
      before = snapshot(run)
      with Checkpoints(run, read_only=True) as checkpoints:
        state, step = checkpoints.restore(template)
      assert_same(state, states[step])
      assert snapshot(run) == before
      assert len(warnings) == (step == 1), (path, warnings)
      assert all("step 2" in line and "\n" not in line for line in warnings)
      fallbacks += step == 1
      path.write_bytes(data)
  assert fallbacks >= 5


def test_goes_on_saving_after_a_fallback(run, warnings):
  (run / "000000002" / "index" / "metadata").unlink()
  (run / "000000003").mkdir()  # As left by a copy that was cut off.
  (run / "damaged-3").mkdir()  # From an earlier time.
  lost = snapshot(run / "000000002")
  with Checkpoints(run) as checkpoints:
    state, step = checkpoints.restore(make_state(0))
    assert step == 1 and len(warnings) == 2
    assert_same(state, make_state(1))
    assert checkpoints.steps() == [1]
    for step in (2, 3):
      checkpoints.save(step, make_state(step + 10))
  assert snapshot(run / "damaged-2") == lost
  assert (run / "damaged-3-again").is_dir()
  with Checkpoints(run) as checkpoints:
    assert checkpoints.steps() == [2, 3]
    assert_same(checkpoints.restore(make_state(0))[0], make_state(13))


@pytest.mark.parametrize("read_only", [False, True])
def test_all_damaged_is_an_error_and_nothing_is_touched(run, read_only, warnings):
  for step in (1, 2):
    (run / f"{step:09d}" / "state" / "_METADATA").write_bytes(b"")
  before = snapshot(run)
  with Checkpoints(run, read_only=read_only) as checkpoints:
    message = r"none of the 2 .*newest: step 2: .*move the"
    with pytest.raises(CheckpointError, match=message) as info:
      checkpoints.restore(make_state(0))
    assert str(run) in str(info.value) and "\n" not in str(info.value) and len(warnings) == 2
    with pytest.raises(DamagedError, match=r"step 1 in .* is damaged"):
      checkpoints.restore_step(make_state(0), 1)
  assert snapshot(run) == before


def test_another_state_is_named_and_is_not_damage(run, warnings):
  before, state = snapshot(run), make_state(0)
  others = {
    r"params\['layer'\]\['kernel'\] is float32\[16, 32\], expected float32\[16, 16\]": make_state(
      0, width=16
    ),
    r"step is int32\[\], expected float32\[\]": state.replace(step=jnp.zeros(())),
    r"ema\['0.99'\]\['layer'\]\['bias'\] is absent, expected float32\[3\]": state.replace(
      ema={"0.99": state.ema["0.999"]}
    ),
    r"ema\['0.9/x'\]\['half'\] is bfloat16\[5\], expected absent": state.replace(
      ema={"0.999": state.ema["0.999"]}
    ),
  }
  with Checkpoints(run) as checkpoints:
    for message, template in others.items():
      with pytest.raises(CheckpointError, match=message) as info:
        checkpoints.restore(template)
      assert not isinstance(info.value, DamagedError)
  assert snapshot(run) == before and not warnings


def test_a_directory_that_vanished_is_reported(run):
  with (
    pytest.raises(CheckpointError, match=r"saving a checkpoint in .* failed"),
    Checkpoints(run) as checkpoints,
  ):
    os.rename(run, run.with_name("gone"))
    run.write_text("a file in the place of the directory")
    checkpoints.save(3, make_state(3))


def test_full_disk_is_reported_and_survived(tmp_path, caplog):
  state = {"x": jax.random.normal(jax.random.key(0), (400, 400))}
  _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": jnp.zeros((400, 400))})
    checkpoints.wait()
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
      checkpoints.save(2, state)
      with pytest.raises(CheckpointError, match=r"saving a checkpoint in .* failed"):
        checkpoints.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    gc.collect()  # asyncio tells of what nobody has awaited
    assert caplog.records and all(map(_by_orbax, caplog.records))
    assert checkpoints.steps() == [1] and checkpoints.restore(state)[1] == 1
    checkpoints.save(2, state)
    assert checkpoints.restore(state)[1] == 2


@pytest.mark.parametrize("raiser", ["orbax/serialization.py", "other/module.py"])
def test_only_what_orbax_leaves_behind_is_silent(raiser, monkeypatch):
  reported = []
  monkeypatch.setattr(sys, "unraisablehook", reported.append)
  silence_orbax()
  code = compile("def fail():\n  raise Exception('Encountered error')", raiser, "exec")
  exec(code, names := {})

  async def awaits():  # as asyncio wraps what failed: the coroutine itself is not Orbax's
    names["fail"]()

  class Left:  # raises while it is collected
    def __del__(self):
      awaits().send(None)

  Left()
  gc.collect()
  assert len(reported) == (raiser != "orbax/serialization.py")


def test_read_only_touches_nothing(run, tmp_path):
  (run / "000000009.orbax-checkpoint-tmp-1").mkdir()
  before = snapshot(run)
  with Checkpoints(run, read_only=True) as checkpoints:
    assert checkpoints.restore(make_state(0))[1] == 2
    with pytest.raises(CheckpointError, match="reading only"):
      checkpoints.save(3, make_state(3))
  assert snapshot(run) == before
  with Checkpoints(tmp_path / "missing", read_only=True) as checkpoints:
    assert checkpoints.restore(make_state(0)) is None
  assert not (tmp_path / "missing").exists()


def test_bad_arguments(tmp_path):
  for options in ({"keep_latest": 0}, {"mode": "best"}):
    with pytest.raises(ValueError, match="keep_latest"):
      Checkpoints(tmp_path / "x", **options)
  assert not (tmp_path / "x").exists()


def run_python(code: str, *args, **env) -> None:
  root = ROOT
  env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)} | env
  command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, args)]
  result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr


@pytest.mark.e2e
def test_killed_while_saving(tmp_path, warnings):
  """kill -9 at 6 moments of a save: a complete state comes back and the next save works."""
  run_python(
    """
    import os, pathlib, signal, sys, threading, time
    import jax, jax.numpy as jnp
    from scorelab.runs.checkpoints import Checkpoints

    def work(directory, delay):
      state = lambda step: {f"x{i}": jnp.full((20, 100), float(step)) for i in range(10)}
      checkpoints = Checkpoints(directory)
      checkpoints.save(1, state(1))
      checkpoints.wait()
      def kill():
        while not any("tmp" in p.name for p in directory.iterdir()): pass
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)
      threading.Thread(target=kill).start()
      for step in range(2, 1000):
        checkpoints.save(step, state(step))

    for i in range(6):  # JAX has started no thread yet, so forking is safe.
      if (pid := os.fork()) == 0:
        work(pathlib.Path(sys.argv[1]) / str(i), i * 0.006)
      assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
  """,
    tmp_path,
  )
  left_over, template = 0, {f"x{i}": jnp.zeros((20, 100)) for i in range(10)}
  for directory in tmp_path.iterdir():
    left_over += any("tmp" in p.name for p in directory.iterdir())
    with Checkpoints(directory) as checkpoints:
      state, step = checkpoints.restore(template)
      assert step >= 1
      np.testing.assert_array_equal(np.stack(list(state.values())), step)
      checkpoints.save(step + 1, template)
    assert not any("tmp" in p.name for p in directory.iterdir())
  assert left_over >= 1 and not warnings


@pytest.mark.e2e
def test_restores_onto_the_sharding_of_the_template(tmp_path):
  run_python(
    """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from scorelab.runs.checkpoints import Checkpoints

    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x = jnp.arange(400.0)
    with Checkpoints(sys.argv[1]) as checkpoints:
      checkpoints.save(1, {"a": jax.device_put(x, split), "b": jax.device_put(x, whole), "c": x})
      like = {"a": jax.device_put(x, whole), "b": x, "c": jax.device_put(x, split)}
      state, _ = checkpoints.restore(like)
    for name, leaf in state.items():
      assert leaf.sharding == like[name].sharding, name
      np.testing.assert_array_equal(leaf, x)
  """,
    tmp_path,
    XLA_FLAGS="--xla_force_host_platform_device_count=2",
  )
