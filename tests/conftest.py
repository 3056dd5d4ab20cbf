"""What the tests share."""

import gc
import os

import jax
import pytest

from tests.forked_main import ROOT, Forked

# Tests compile more than they compute: XLA optimises little. Without its new fusions for CPUs a
# program compiles two to three times faster, and in one piece with a third less CPU time than in
# many; XLA ends a process over a flag that it does not know.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of subprocesses
if jax.__version_info__[:2] == (0, 10):
  quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
  os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')}".strip()


def keep_to_one_core():
  """Gives each worker a core: the threads of XLA's programs would take turns on all of them."""
  worker, count = (os.environ.get(f"PYTEST_XDIST_WORKER{end}") for end in ("", "_COUNT"))
  if worker and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    if int(count) >= len(cores):
      os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


keep_to_one_core()


def resident_memory():
  """Bytes of memory that the process has now; 0 where the system does not say."""
  try:
    with open("/proc/self/statm") as file:
      return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except OSError:
    return 0


def pytest_collection_finish():
  """What the imports have made stays to the end: the garbage collector need not walk over it.

  Traced programs are many small objects and few cycles: it need not come often either.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000)


@pytest.fixture(autouse=True, scope="session")
def compilation_cache(tmp_path_factory):
  """What one test has compiled, the next one and its subprocesses load; or what an earlier run has.

  That is in the folder JAX_COMPILATION_CACHE_DIR, where it is set: all that took long, or
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS.
  """
  ours = tmp_path_factory.getbasetemp()
  ours = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours  # all workers share it
  folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(ours / "compilation_cache")
  least = float(os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2"))
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(least)
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


MEMORY = 2e9  # bytes


@pytest.fixture(autouse=True, scope="module")
def programs_of_earlier_modules():
  """What earlier modules have compiled is forgotten once it fills memory."""
  yield
  if resident_memory() > MEMORY:
    jax.clear_caches()


@pytest.fixture(scope="session")
def forked(compilation_cache):
  """Runs this checkout's main.py and scripts as processes that need not import anything."""
  with Forked(cwd=ROOT) as processes:
    yield processes


@pytest.fixture
def x64():
  """float64 for one test: what is exact is compared to rounding, not to float32's."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module")
def quick_compilation():
  """What all tests have: XLA optimises little."""


@pytest.fixture(scope="module")
def full_optimisation():
  """XLA optimises as it does for users: for bits that two programs share, and for long runs."""
  jax.config.update("jax_disable_most_optimizations", False)
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
  yield
  jax.config.update("jax_disable_most_optimizations", True)
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
