"""Training throughput, and the fraction of the devices' peak that it reaches."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp


def matmul_peak(dtype: str, repeats: int = 5) -> float:
  """Measured FLOP/s of one device in a product of square matrices: the best of `repeats` runs.

  A product has 2 n^3 operations, with n = 8192 on an accelerator and 1024 on a CPU, at the
  matrix-product precision that is set.
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
  """Number of operations of a jitted function, before XLA fuses or splits it.

  The body of a scan counts once, so the result is per step. None if the backend does not report it.
  """
  cost = function.lower(*args, **kwargs).cost_analysis()
  return cost.get("flops") if cost else None


def memory_peak() -> int | None:
  """Peak bytes in use on any of this process's devices; None if unknown."""
  found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
  known = [peak for peak in found if peak is not None]
  return max(known, default=None)


def report(
  steps_per_s: float, batch_size: int, flops_per_step: float | None, dtype: str
) -> dict[str, float | int | None]:
  """Returns steps and examples per second, the share of all devices' peak, and peak memory."""
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
