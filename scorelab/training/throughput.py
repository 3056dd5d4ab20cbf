"""How fast a training was, beside what its devices can do."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp


def matmul_peak(dtype: str, repeats: int = 5) -> float:
  """Operations a second of one device in a product of square matrices: the best of `repeats`.

  2 n^3 operations, n = 8192 on an accelerator and 1024 on a CPU, at the matrix-product precision
  that is set.
  """
  device = jax.local_devices()[0]
  size = 1024 if device.platform == "cpu" else 8192
  matrix = jax.device_put(jnp.ones((size, size), dtype), device)
  product = jax.jit(jnp.matmul)
  product(matrix, matrix).block_until_ready()  # compiles
  times = []
  for _ in range(repeats):
    begun = time.perf_counter()
    product(matrix, matrix).block_until_ready()
    times.append(time.perf_counter() - begun)
  return 2 * size**3 / min(times)


def flops(function: Any, *args: Any, **kwargs: Any) -> float | None:
  """Operations of a jitted function as it is written, before XLA fuses or splits it.

  Those of a scan are its body's, once: the operations of one step. None where the backend does not
  say.
  """
  cost = function.lower(*args, **kwargs).cost_analysis()
  return cost.get("flops") if cost else None


def memory_peak() -> int | None:
  """The most bytes in use so far on any of this process's devices; None where that is not known."""
  found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
  known = [peak for peak in found if peak is not None]
  return max(known, default=None)


def report(
  steps_per_s: float, batch_size: int, flops_per_step: float | None, dtype: str
) -> dict[str, float | int | None]:
  """Steps and examples a second, the share of all devices' measured peak, and the memory peak."""
  peak = jax.device_count() * matmul_peak(dtype)
  done = flops_per_step and flops_per_step * steps_per_s
  return {
    "steps_per_s": steps_per_s,
    "examples_per_s": steps_per_s * batch_size,
    "flops_per_step": flops_per_step,
    "flops_per_s": done,
    "peak_flops_per_s": peak,
    "utilisation": done and done / peak,
    "memory_peak_bytes": memory_peak(),
  }
