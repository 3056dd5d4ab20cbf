"""From a Gaussian to two modes on the line: what `scripts/figures.py flow_1d` draws."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from scorelab.plotting import save, trajectories, write_csv
from scorelab.samplers import ancestral, heun
from scorelab.schedules import SCHEDULES, Schedule, uniform
from scorelab.targets.mixtures import two_modes_1d
from scripts.drawing.source import Sheet

_PROCESSES = ("variance_preserving", "linear_flow")
_REACH = 4.0


def paths(sheet: Sheet, num_steps: int = 1000, num_flow: int = 15, num_sde: int = 6) -> None:
  """The probability flow and the reverse SDE from a Gaussian to two modes, over the density."""
  rows = {name: _follow(SCHEDULES[name](), num_steps, num_flow, num_sde) for name in _PROCESSES}
  text = (
    f"exact score, {num_steps} steps; the flow (Heun's method) from {num_flow} quantiles of the "
    f"prior, so that each carries 1/{num_flow} of the mass;\nthe reverse SDE (ancestral steps) "
    f"from {num_sde} draws of it; grey: the root of the density of x at time t"
  )
  save(trajectories.through_time(rows, text), sheet.out / "paths.png", sheet.command)
  table = []
  for name, row in rows.items():
    for i in range(0, len(row.t), num_steps // 50):
      flow = {f"flow_{k}": float(x) for k, x in enumerate(row.flow[i])}
      sde = {f"sde_{k}": float(x) for k, x in enumerate(row.sde[i])}
      table.append({"process": name, "t": float(row.t[i]), **flow, **sde})
  write_csv(sheet.out / "paths.csv", table, sheet.command)


def _follow(
  schedule: Schedule, num_steps: int, num_flow: int, num_sde: int
) -> trajectories.ThroughTime:
  target, grid = two_modes_1d(), uniform(schedule, num_steps)
  lattice = np.linspace(-_REACH, _REACH, 321, dtype=np.float32)
  quantiles = norm.ppf((np.arange(num_flow) + 0.5) / num_flow).astype(np.float32)

  @jax.jit
  def run() -> tuple[jax.Array, ...]:
    prior_std, start_key, key = grid.schedule.prior_std(grid[0]), *jax.random.split(_KEY)
    flow = prior_std * quantiles[:, None]
    sde = grid.prior(start_key, (num_sde, 1))
    solved = heun(key, target.predict, flow, grid).path
    drawn = ancestral(key, target.predict, sde, grid).path
    levels = jax.tree.map(lambda a: a[:: num_steps // 200], grid.levels)
    density = jax.lax.map(
      lambda level: target.perturbed(level.alpha, level.sigma).log_prob(
        jnp.asarray(lattice)[:, None]
      ),
      levels,
    )
    paths = (jnp.concatenate([x[None], path])[..., 0] for x, path in ((flow, solved), (sde, drawn)))
    return (*paths, levels.t, jnp.exp(density))

  flow, sde, times, density = map(np.asarray, run())
  return trajectories.ThroughTime(np.asarray(grid.levels.t), flow, sde, times, lattice, density)


_KEY = jax.random.key(9)
FIGURES: dict[str, Callable[[Sheet], None]] = {"paths": paths}
