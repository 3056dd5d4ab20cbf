"""Paired timings: two ways to do the same work, in turn, in one process.

  python scripts/benchmark.py                        # all cases
  python scripts/benchmark.py train_chunk --repeats 10

Absolute times depend on the machine and on what else it does; ratios taken side by side hardly do.
Each line gives the median over the repeats of time(theirs) / time(ours), with its quartiles.

Cases beside other libraries need them. One requirement of k-diffusion asks for NumPy 1, which it
does without, so that it is installed apart:

  pip install -e '.[parity]' && pip install --no-deps clip-anytorch dctorch k-diffusion
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from configs import ddpm_circles, ncsn_gmm
from scorelab import ensembles, metrics, training
from scorelab.experiment import build
from scorelab.samplers.langevin import ula, ula_step
from scorelab.sharding import ONE_DEVICE
from scorelab.targets.mixtures import nine_modes
from scripts.libraries import side_by_side

Work = Callable[[], object]


def train_chunk() -> dict[str, tuple[Work, Work]]:
  """100 training steps of ncsn_gmm: a Python loop over jitted steps against one scanned chunk.

  Both read the loss: the loop after every step, as a notebook's progress bar does.
  """
  experiment = build(ncsn_gmm.get_config())
  chunk = training.make_chunk(experiment)
  step = jax.jit(
    lambda root, state: training.train_step(experiment, root, state, experiment.data),
    donate_argnums=1,
  )

  def loop() -> None:
    state = training.init_state(experiment)
    for _ in range(100):
      state, line = step(experiment.root, state)
      float(line["loss"])
    jax.block_until_ready(state)

  def scanned() -> None:
    state, line = chunk(training.init_state(experiment), experiment.data, length=100)
    training.summarise(line)
    jax.block_until_ready(state)

  return {"Python loop / scanned chunk": (loop, scanned)}


def max_sliced_wasserstein() -> dict[str, tuple[Work, Work]]:
  """2000 v 10,000 points under 1000 projections: POT against ours, without and with a Reference.

  POT's engine is NumPy here, its fastest on a CPU. Its value is taken in float64: in float32 it
  differs from its own by 6e-4.
  """
  import ot

  rng = np.random.default_rng(0)
  x = rng.normal(size=(2000, 2)).astype(np.float32)
  y = rng.normal(size=(10_000, 2)).astype(np.float32)
  directions = rng.normal(size=(2, 1000)).astype(np.float32)
  directions /= np.linalg.norm(directions, axis=0)
  kept = metrics.Reference(y)

  def theirs() -> Any:
    return ot.sliced.max_sliced_wasserstein_distance(x, y, projections=directions)

  def ours(reference: np.ndarray | metrics.Reference) -> float:
    return metrics.max_sliced_wasserstein(None, x, reference, p=2, projections=directions)

  in_double = [a.astype(np.float64) for a in (x, y)]
  value: Any = ot.sliced.max_sliced_wasserstein_distance(*in_double, projections=directions)
  np.testing.assert_allclose([ours(y), ours(kept)], value, rtol=1e-5)
  return {
    "POT / ours": (theirs, lambda: ours(y)),
    "POT / ours, reference kept": (theirs, lambda: ours(kept)),
  }


def langevin() -> dict[str, tuple[Work, Work]]:
  """20 chains of 1000 steps of ULA with the exact score: a Python loop over jitted steps, or ours.

  The loop keeps every state, as a notebook does for its animation; so does ours.
  """
  target = nine_modes()
  key, start_key = jax.random.split(jax.random.key(0))
  start = 10 * jax.random.normal(start_key, (20, 2))

  @jax.jit
  def step(key: jax.Array, x: jax.Array) -> jax.Array:
    return ula_step(x, target.score(x), 1e-2, jax.random.normal(key, x.shape))

  def loop() -> np.ndarray:
    x, path = start, []
    for k in jax.random.split(key, 1000):
      x = step(k, x)
      path.append(x)
    return np.stack(path)

  chain = jax.jit(lambda key, x: ula(key, target.score, x, step_size=1e-2, num_steps=1000).path)
  np.testing.assert_allclose(loop(), chain(key, start), atol=1e-3)
  return {"Python loop / scanned chains": (loop, lambda: jax.block_until_ready(chain(key, start)))}


def unet_step(side: int = 32, batch: int = 16, dim: int = 32) -> dict[str, tuple[Work, Work]]:
  """A training step of the published U-Net, dim 32 and ResNet blocks, 16 images of 32 x 32.

  PyTorch's, where it is installed (`pip install torch`), against ours: from the same weights, with
  the same Adam, loss and data; first the two predictions are compared. On a CPU ours is slower, by
  XLA's convolutions: they are Eigen's, which run at about 70 of two cores' 177 GFLOP/s, and
  PyTorch's are oneDNN's. Linear attention is about 30 % of the step, normalisations 10 %.
  `python scripts/throughput.py --costs` names the largest costs.
  """
  import optax
  import torch

  from scorelab.networks import UNet
  from scorelab.pretrained import unet_params
  from scripts.torch_unet import TorchUNet

  torch.manual_seed(0)
  mults = (1, 2, 4, 8)
  model, network = TorchUNet(dim, mults), UNet(dim, mults)
  state_dict = {k: v.detach().numpy().copy() for k, v in model.state_dict().items()}
  params = unet_params(network, state_dict)
  rng = np.random.default_rng(0)
  x, noise = rng.normal(size=(2, batch, side, side, 3)).astype(np.float32)
  t = rng.integers(0, 1000, batch).astype(np.float32)
  x_torch, noise_torch = (
    torch.from_numpy(np.moveaxis(a, -1, 1).copy()).contiguous(memory_format=torch.channels_last)
    for a in (x, noise)
  )
  t_torch = torch.from_numpy(t)
  with torch.no_grad():
    theirs_out = np.moveaxis(model(x_torch, t_torch).numpy(), 1, -1)
  ours_out = jax.jit(network.apply)({"params": params}, x, t)
  np.testing.assert_allclose(ours_out, theirs_out, atol=1e-3)  # float32, through 40 layers

  model = model.to(memory_format=torch.channels_last)
  adam = torch.optim.Adam(model.parameters(), lr=1e-3)
  optimizer = optax.adam(1e-3)

  def theirs() -> float:
    adam.zero_grad()
    loss = torch.nn.functional.smooth_l1_loss(model(x_torch, t_torch), noise_torch)
    loss.backward()
    adam.step()
    return float(loss.detach())

  @jax.jit
  def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
    def loss(params: Any) -> jax.Array:
      out: Any = network.apply({"params": params}, x, t)
      return optax.huber_loss(out, noise).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value

  held = params, optimizer.init(params)

  def ours() -> float:
    nonlocal held
    *held, value = step(*held)
    return float(value)

  return {"PyTorch / ours": (theirs, ours)}


def samplers() -> dict[str, tuple[Work, Work]]:
  """100 steps of diffusers' and k-diffusion's loops in PyTorch against ours, at 20 and 2000 points.

  DDIM, Euler's and Heun's methods and DPM-Solver++(2M), which give the same samples; and the share
  of the matrix products' peak that ours reaches. See scripts/libraries.py.
  """
  return side_by_side()


def ensemble() -> dict[str, tuple[Work, Work]]:
  """10 training steps of ncsn_gmm and ddpm_circles: seeds in one program against seeds in turn.

  Sixteen in one program against sixteen single runs, which share a compiled one; and 1, 4, 16 and
  64 in one program against one single run.
  """
  models = {"ncsn_gmm": ncsn_gmm.get_config(), "ddpm_circles": ddpm_circles.get_config()}
  pairs: dict[str, tuple[Work, Work]] = {}
  for name, config in models.items():
    pairs |= {f"{name}, {label}": pair for label, pair in _seeds(config).items()}
  return pairs


def _seeds(config: ConfigDict, steps: int = 10) -> dict[str, tuple[Work, Work]]:
  experiment = build(config)
  chunk = training.make_chunk(experiment)

  first = training.init_state(experiment)

  def in_turn(number: int) -> object:
    lines = []
    for seed in range(number):
      state = jax.tree.map(jnp.copy, first)
      lines.append(chunk.func(jax.random.key(seed), state, experiment.data, length=steps)[1])
    return jax.block_until_ready(lines)

  def together(number: int) -> Work:
    config.ensemble.seeds = number
    program = ensembles.make_program(ensembles.build(config), ONE_DEVICE)
    first = program.init()
    fed = program.feed(first).take(steps)

    def work() -> object:
      return jax.block_until_ready(
        program.chunk(jax.tree.map(jnp.copy, first), *fed, length=steps)[1]
      )

    return work

  programs: dict[int, Work] = {number: together(number) for number in (1, 4, 16, 64)}
  one, sixteen = functools.partial(in_turn, 1), functools.partial(in_turn, 16)
  pairs: dict[str, tuple[Work, Work]] = {"16 runs / 16 in one program": (sixteen, programs[16])}
  return pairs | {f"{n} in one program / one run": (work, one) for n, work in programs.items()}


CASES: dict[str, Callable[[], dict[str, tuple[Work, Work]]]] = {
  "ensemble": ensemble,
  "langevin": langevin,
  "max_sliced_wasserstein": max_sliced_wasserstein,
  "samplers": samplers,
  "train_chunk": train_chunk,
  "unet_step": unet_step,
}


def seconds(work: Work) -> float:
  """How long one call takes."""
  begun = time.perf_counter()
  work()
  return time.perf_counter() - begun


def compare(theirs: Work, ours: Work, repeats: int) -> list[float]:
  """time(theirs) / time(ours), alternating, after one call of each that is not counted."""
  theirs(), ours()
  return [seconds(theirs) / seconds(ours) for _ in range(repeats)]


def main() -> None:
  """Runs the cases asked for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)} [all]")
  parser.add_argument("--repeats", type=int, default=20, help="alternations [20]")
  parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write the ratios to")
  arguments = parser.parse_args()
  for name in arguments.cases:
    if name not in CASES:
      parser.error(f"{name!r} is not a case (known: {', '.join(CASES)})")
  results = []
  for name in arguments.cases or CASES:
    try:
      pairs = CASES[name]()
    except ImportError as error:
      print(f"{name}: not run, {error.name} is missing: see --help", flush=True)
      continue
    for label, (theirs, ours) in pairs.items():
      ratios = compare(theirs, ours, arguments.repeats)
      low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
      print(f"{name}: {label} = {median:.2f} ({low:.2f} to {high:.2f})", flush=True)
      results.append({"case": name, "ratio": label, "median": median, "quartiles": [low, high]})
  if arguments.out:
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
      "command": f"python scripts/benchmark.py {' '.join(sys.argv[1:])}".strip(),
      "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
      "jax": jax.__version__,
      "repeats": arguments.repeats,
      "results": results,
    }
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
  main()
