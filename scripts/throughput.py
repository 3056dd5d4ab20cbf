"""Training images a second of the published U-Net: utilisation, memory and the largest costs.

  python scripts/throughput.py                                     # on a GPU
  python scripts/throughput.py --torch --precisions bfloat16       # also PyTorch's, compiled
  python scripts/throughput.py --batches 192 --precisions bfloat16 --costs    # a profile of a step
  python scripts/throughput.py --side 16 --dim 8 --batches 2 --steps 2        # tiny, for any CPU

The model is that of configs/ddpm_flowers.py: dim 128, stages (1, 2, 4), 32,009,619 parameters, 128
x 128 pixels, with Adam and L1 loss. Utilisation is the program's FLOPs a second, as XLA counts
them, over those of a large matrix product in the same precision on the same device. Rows go to
results/benchmarks/throughput.json, or to --out; --reference writes the committed file.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scorelab.networks import UNet
from scripts import outputs

# The matrix products' precision, and the network's dtype.
PRECISIONS = {
  "float32": ("float32", None),
  "tf32": ("tensorfloat32", None),
  "bfloat16": ("default", "bfloat16"),
}
_MULTS = (1, 2, 4)


def seconds(work: Callable[[], Any], repeats: int) -> float:
  """The median time of a call, after one that is not counted; work must wait for its result."""
  work()
  times = []
  for _ in range(repeats):
    begun = time.perf_counter()
    work()
    times.append(time.perf_counter() - begun)
  return float(np.median(times))


def peak_flops(precision: str, size: int) -> float:
  """FLOPs a second of a [size, size] matrix product."""
  matmul_precision, dtype = PRECISIONS[precision]
  a = jnp.ones((size, size), dtype or jnp.float32)
  product = jax.jit(lambda a: jnp.matmul(a, a, precision=matmul_precision))
  return 2 * size**3 / seconds(lambda: jax.block_until_ready(product(a)), 5)


class Step:
  """A compiled training step on one batch, which stays on the device.

  Attributes:
    program: the compiled step.
    flops: of one, as XLA counts them.
    bytes: of device memory that the program needs, its arguments included.
  """

  def __init__(self, batch: int, side: int, dim: int, precision: str, remat: bool) -> None:
    matmul_precision, dtype = PRECISIONS[precision]
    network, optimizer = UNet(dim, _MULTS, dtype=dtype, remat=remat), optax.adam(1e-3)
    keys = jax.random.split(jax.random.key(0), 3)
    x, noise = (jax.random.normal(key, (batch, side, side, 3)) for key in keys[:2])
    t = jnp.linspace(0, 999, batch)

    def step(params: Any, state: Any, x: jax.Array, noise: jax.Array, t: jax.Array) -> Any:
      def loss(params: Any) -> jax.Array:
        out: Any = network.apply({"params": params}, x, t)
        return jnp.abs(out - noise).mean()

      value, grads = jax.value_and_grad(loss)(params)
      updates, state = optimizer.update(grads, state)
      return optax.apply_updates(params, updates), state, value

    with jax.default_matmul_precision(matmul_precision):
      params = jax.jit(network.init)(keys[2], x[:1], t[:1])["params"]
      self._held: Any = params, optimizer.init(params)
      self._batch = x, noise, t
      jitted = jax.jit(step, donate_argnums=(0, 1))
      self.program = jitted.lower(*self._held, *self._batch).compile()
    costs: Any = self.program.cost_analysis()
    memory: Any = self.program.memory_analysis()
    self.flops = float(costs["flops"])
    self.bytes = int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)

  def run(self, steps: int = 1) -> None:
    """Takes steps and waits for the last."""
    for _ in range(steps):
      *self._held, _ = self.program(*self._held, *self._batch)
    jax.block_until_ready(self._held)


def largest_costs(run: Callable[[], None], number: int = 3) -> list[dict[str, Any]]:
  """The operations, by kind, that take the most time in a call, and their shares of all."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
    profile = jax.profiler.ProfileData.from_file(str(file))
    totals: collections.Counter[str] = collections.Counter()
    for plane in profile.planes:
      for line in plane.lines:
        if line.name == "XLA Ops" or (plane.name == "/host:CPU" and "XLA" in line.name):
          for event in line.events:
            if "::" in event.name:  # the host's own: 'ThunkExecutor::Execute' holds all others
              continue
            # 'convolution.12' and 'loop_convolution_fusion.3' are kinds with a number.
            totals[re.sub(r"[.\d]+$", "", event.name)] += event.duration_ns
  everything = sum(totals.values())
  return [
    {"operation": name, "share": time / everything} for name, time in totals.most_common(number)
  ]


def torch_seconds(batch: int, side: int, dim: int, precision: str, steps: int) -> float:
  """The time of a step of the same model in PyTorch: channels last, compiled, autocast."""
  import torch

  from scripts.torch_unet import TorchUNet

  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
  device = "cuda" if torch.cuda.is_available() else "cpu"
  model: Any = TorchUNet(dim, _MULTS).to(device, memory_format=torch.channels_last)
  compiled: Any = torch.compile(model) if device == "cuda" else model
  adam = torch.optim.Adam(model.parameters(), lr=1e-3)
  x, noise = torch.randn(2, batch, 3, side, side, device=device).unbind(0)
  x = x.contiguous(memory_format=torch.channels_last)
  t = torch.linspace(0, 999, batch, device=device)

  def work() -> None:
    for _ in range(steps):
      adam.zero_grad()
      with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
        out = compiled(x, t)
      loss = (out.float() - noise).abs().mean()
      loss.backward()
      adam.step()
    loss.item()

  return seconds(work, 3) / steps


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
  """A row for each precision and batch; one that does not fit says so."""
  rows = []
  for precision in args.precisions:
    peak = peak_flops(precision, args.matmul)
    for batch in args.batches:
      row: dict[str, Any] = {"precision": precision, "batch": batch}
      try:
        step = Step(batch, args.side, args.dim, precision, args.remat)
        duration = seconds(lambda step=step: step.run(args.steps), 3) / args.steps
        row |= {
          "images_per_s": batch / duration,
          "utilisation": step.flops / duration / peak,
          "memory_gib": step.bytes / 2**30,
        }
        if args.costs:
          row["largest_costs"] = largest_costs(step.run)
        del step
        if args.torch:
          theirs = torch_seconds(batch, args.side, args.dim, precision, args.steps)
          row |= {"torch_images_per_s": batch / theirs, "ratio": theirs / duration}
      except jax.errors.JaxRuntimeError as error:  # more than the device's memory
        row["failed"] = str(error).splitlines()[0][:100]
      print(json.dumps(row), flush=True)
      rows.append(row)
  return rows


def main() -> None:
  """Measures what was asked for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--batches", type=int, nargs="+", default=[24, 64, 192])
  parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
  parser.add_argument("--side", type=int, default=128, help="of the images [128]")
  parser.add_argument("--dim", type=int, default=128, help="of the network [128]")
  parser.add_argument("--steps", type=int, default=20, help="in a timing, of three [20]")
  parser.add_argument("--matmul", type=int, default=8192, help="side of the peak's product [8192]")
  parser.add_argument("--remat", action="store_true", help="compute blocks again for the gradient")
  parser.add_argument("--torch", action="store_true", help="PyTorch beside it")
  parser.add_argument("--costs", action="store_true", help="profile a step of each")
  file = "benchmarks/throughput.json"
  outputs.add_arguments(parser, f"results/{file}", file)
  args = parser.parse_args()
  out = outputs.directory(parser, args, outputs.RESULTS / file, file)
  record = {
    "command": f"python scripts/throughput.py {' '.join(sys.argv[1:])}".strip(),
    "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
    "jax": jax.__version__,
    "rows": measure(args),
  }
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
  main()
