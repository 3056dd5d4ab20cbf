"""Limits of the machine, timed in the same rounds as the sides that are compared with them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.benchmarks.timed_processes import Side, Task


def matrix_products(quick: bool) -> Task:
  """Square matrix products, one after the other, of whichever size is fastest."""

  def products(size: int) -> tuple[Callable[[], Any], float]:
    x = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    number = max(1, 2**33 // (2 * size**3))

    @jax.jit
    def multiply(x: jax.Array, w: jax.Array) -> jax.Array:
      return jax.lax.fori_loop(0, number, lambda _, x: x @ w, x)

    return lambda: jax.block_until_ready(multiply(x, x)), 2.0 * size**3 * number

  def rate(work: Callable[[], Any], flops: float) -> float:
    work()
    begun = time.perf_counter()
    work()
    return flops / (time.perf_counter() - begun)

  sizes = (512, 1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192)
  call, flops = max(map(products, (256,) if quick else sizes), key=lambda pair: rate(*pair))
  return Task(call, amounts={"FLOP": flops})


def memory_traffic(quick: bool) -> Task:
  """Reading an array and writing another, 256 MiB each."""
  x = jnp.ones(2**16 if quick else 2**26)
  add = jax.jit(lambda x: x + 1)
  return Task(lambda: jax.block_until_ready(add(x)), amounts={"byte": 8.0 * x.size})


def sorting(rows: int, columns: int) -> Task:
  """NumPy's sort of rows of float32: some that a core's cache holds at a time, on every core."""
  x = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
  cores = os.cpu_count() or 1
  parts = np.array_split(x, min(rows, max(cores, x.size // 2**18)))
  pool = ThreadPoolExecutor(cores)

  def call() -> None:
    list(pool.map(lambda part: np.sort(part, axis=1), parts))

  return Task(call, amounts={"value sorted": float(x.size)})


def products(quick: bool) -> dict[str, Side]:
  """Returns the limit for work dominated by matrix products."""
  return {"matrix products": Side(matrix_products, {"quick": quick})}


def traffic(quick: bool) -> dict[str, Side]:
  """Returns the limit for work dominated by memory traffic."""
  return {"memory traffic": Side(memory_traffic, {"quick": quick})}
