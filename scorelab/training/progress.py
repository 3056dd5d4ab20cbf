"""Progress of a training: summaries, checks for NaN, and a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from scorelab.errors import RunError
from scorelab.typing import Array, Average, Metrics


def summarise(metrics: Metrics) -> dict[str, Any]:
  """Returns a chunk's stacked metrics as JSON values: means over steps, band means pooled."""

  def mean(value: Array | Average) -> Any:
    if isinstance(value, Average):
      total, count = np.sum(value.total, axis=0), np.sum(value.count, axis=0)
      # A band that no level fell into has no loss.
      return np.where(count > 0, total / np.maximum(count, 1), np.nan).tolist()
    return np.mean(value, axis=0).tolist()

  def null_for_nan(value: Any) -> Any:
    if isinstance(value, list):
      return [null_for_nan(v) for v in value]
    return value if np.isfinite(value) else None

  return {name: null_for_nan(mean(value)) for name, value in metrics.items()}


def check_finite(
  metrics: Metrics, last_step: int, validation: Mapping[str, Any] = MappingProxyType({})
) -> None:
  """Raises RunError if a metric of a chunk is NaN or Inf; names the first such step."""
  numbers = {name: metrics[name] for name in ("loss", "grad_norm", "param_norm")}
  for name, given in (numbers | dict(validation)).items():
    values = np.atleast_1d(np.asarray(given))
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
      step = last_step - len(values) + 1 + int(bad[0])
      raise RunError(
        f"training stopped: {name} is {values[bad[0]]} at step {step}; the checkpoints before it "
        "are kept. Lower optimizer.learning_rate or set optimizer.clip_norm"
      )


class Progress:
  """A progress bar on a terminal; elsewhere an occasional plain line."""

  def __init__(self, start: int, total: int, shown: bool = True) -> None:
    self._terminal, self._shown = sys.stderr.isatty(), shown
    self._bar = tqdm(
      total=total,
      initial=start,
      unit="step",
      disable=not (shown and self._terminal),
      dynamic_ncols=True,
    )
    self._start, self._total, self._begun = start, total, time.monotonic()
    self._printed = self._begun
    self._marks: list[tuple[float, int]] = []  # ends of the first and of the last chunk

  def update(self, step: int, loss: float) -> float:
    """Displays the step and its loss; returns the steps per second so far."""
    now = time.monotonic()
    self._marks = [*self._marks[:1], (now, step)]
    rate = (step - self._start) / max(now - self._begun, 1e-9)
    self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
    self._bar.update(step - self._bar.n)
    quiet = self._terminal or not self._shown
    if not quiet and (now - self._printed > 10 or step == self._total):
      self._printed = now
      left = (self._total - step) / rate
      print(
        f"step {step}/{self._total}  loss {loss:.4g}  {rate:.1f} steps/s  {left:.0f} s left",
        file=sys.stderr,
        flush=True,
      )
    return rate

  def steady_rate(self) -> float | None:
    """Returns steps per second after the first chunk, which compiles; None below ten seconds."""
    if not self._marks or self._marks[-1][0] - self._marks[0][0] < 10:
      return None
    (begun, first), (ended, last) = self._marks[0], self._marks[-1]
    return (last - first) / (ended - begun)

  def close(self) -> None:
    """Closes the bar."""
    self._bar.close()
