"""Writes a run's metrics and figures as TensorBoard events."""

from __future__ import annotations

import json
import math
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from scorelab.errors import RefusedError
from scorelab.evaluation.table import row_labels
from scorelab.runs.files import read_jsonl
from scorelab.runs.workdir import Workdir


class Mirror:
  """Sink of a run's metrics within a `with` block: events in <workdir>/tensorboard.

  The lines of metrics.jsonl so far come first, and lines of steps that were written are skipped, so
  that a resumed run has no step twice. At the end evaluation.json and the figures are added. With
  `off`, nothing is done.

  Raises:
    RefusedError: tensorboardX is not installed.
  """

  def __init__(self, workdir: Workdir, off: bool = False) -> None:
    self._workdir, self._step = workdir, -1
    self._writer: Any = None
    if not off:
      self._writer = _make_writer(workdir.path / "tensorboard")

  def __enter__(self) -> Mirror:
    if self._writer is not None:
      for line in read_jsonl(self._workdir.metrics):
        self._write(line)
      self._workdir.sinks.append(self._write)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if self._writer is None:
      return
    self._workdir.sinks.remove(self._write)
    if self._workdir.evaluation.exists():
      for name, value in _evaluated(json.loads(self._workdir.evaluation.read_text())):
        self._writer.add_scalar(name, value, max(self._step, 0))
    for path in sorted(self._workdir.figures.glob("*.png")):
      with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
      self._writer.add_image(path.stem, pixels, max(self._step, 0), dataformats="HWC")
    self._writer.close()

  def _write(self, line: Mapping[str, Any]) -> None:
    """Writes a line of metrics, unless its step was written."""
    if line["step"] > self._step:
      self._step = line["step"]
      for name, value in _numbers(line):
        self._writer.add_scalar(f"training/{name}", value, self._step)


def _make_writer(folder: pathlib.Path) -> Any:
  """Returns a writer of events into this folder, which is emptied first."""
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    needed = "--tensorboard needs tensorboardX: pip install -e '.[tensorboard]'"
    raise RefusedError(needed) from None
  shutil.rmtree(folder, ignore_errors=True)
  return SummaryWriter(str(folder))


def _numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
  """Returns the finite numbers of a line except its step; entries of lists by their index."""
  for name, value in line.items():
    values = enumerate(value) if isinstance(value, list) else [(None, value)]
    for index, one in values:
      if name != "step" and isinstance(one, (int, float)) and math.isfinite(one):
        yield (name if index is None else f"{name}/{index}"), float(one)


def _evaluated(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
  """Returns the metrics of each row."""
  for label, row in zip(row_labels(result["rows"]), result["rows"], strict=True):
    for metric, numbers in row["metrics"].items():
      if numbers.get("value") is not None:
        # A metric may be 'sliced_wasserstein:p=1': tags have no colon and no equals sign.
        tag = f"{metric}/{label.replace('-', '_')}".replace(":", "_").replace("=", "")
        yield f"evaluation/{tag}", numbers["value"]
