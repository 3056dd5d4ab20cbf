"""All forward processes on one sheet: what `scripts/figures.py schedules` draws."""

from collections.abc import Callable

import jax
import numpy as np

from scorelab.plotting import save, schedules, write_csv
from scorelab.schedules import BETAS, SCHEDULES, Discrete, Schedule, scaled_linear_betas
from scripts.drawing.source import Sheet

_EXPLODING = ("variance_exploding", "geometric_variance_exploding", "sigma_power")
_EXPLODING += ("gaussian_channel",)


def comparison(sheet: Sheet, num_times: int = 401) -> None:
  """Alpha, sigma, log-SNR and g of every schedule, with their defaults."""
  fading = [name for name in SCHEDULES if name not in _EXPLODING and name not in BETAS]
  rows = {
    "exploding": {name: SCHEDULES[name]() for name in _EXPLODING},
    "fading": {name: SCHEDULES[name]() for name in fading},
    "tables of betas": {name: SCHEDULES[name]() for name in BETAS}
    | {"scaled_linear, zero-SNR end": Discrete(scaled_linear_betas(), zero_terminal_snr=True)},
  }
  families = {
    family: [_process(name, schedule, num_times) for name, schedule in members.items()]
    for family, members in rows.items()
  }
  text = (
    f"every schedule with its defaults, at {num_times} times; where alpha or sigma is 0 at an end, "
    "log-SNR, and perhaps g, are infinite there"
  )
  save(schedules.comparison(families, text), sheet.out / "comparison.png", sheet.command)
  numbers = [
    {"schedule": process.name}
    | {name: float(column[i]) for name, column in process._asdict().items() if name != "name"}
    for processes in families.values()
    for process in processes
    for i in range(0, num_times, 20)
  ]
  write_csv(sheet.out / "comparison.csv", numbers, sheet.command)


def _process(name: str, schedule: Schedule, num_times: int) -> schedules.Process:
  t = np.linspace(0, 1, num_times, dtype=np.float32)
  level, g2 = jax.jit(lambda t: (schedule.at(t), schedule.diffusion_squared(t)))(t)
  columns = (t, level.alpha, level.sigma, level.log_snr, np.sqrt(g2))
  return schedules.Process(name, *(np.asarray(column) for column in columns))


FIGURES: dict[str, Callable[[Sheet], None]] = {"comparison": comparison}
