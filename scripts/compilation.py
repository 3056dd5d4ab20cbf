"""Quick compilation, for programs that compile more than they compute."""

import os

import jax


def compile_quickly() -> None:
  """Makes XLA optimise little, in this process and those that it starts.

  Without its new fusions for CPUs a program compiles two to three times faster, and in one piece
  with a third less CPU time than in many. XLA ends a process over a flag that it does not know, and
  reads them before it compiles for the first time.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of subprocesses
  if jax.__version_info__[:2] == (0, 10):
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if quick not in os.environ.get("XLA_FLAGS", ""):
      os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')}".strip()
