"""The figures of one finished run."""

from __future__ import annotations

import json
import pathlib
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from scorelab.evaluation import exact_laws
from scorelab.evaluation.table import floor_note, row_labels
from scorelab.experiment.spec import Experiment
from scorelab.metrics.modes import has_modes, mode_radius
from scorelab.metrics.modes import off_mode as beyond_modes
from scorelab.metrics.score_error import SPREAD
from scorelab.plotting import budgets, curves, fields, images, style
from scorelab.plotting.fields import Cloud, ScoreField
from scorelab.predictions import Exact
from scorelab.runs.files import read_jsonl
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import Workdir
from scorelab.targets import truth_of
from scorelab.typing import Array, Params

_MAX_POINTS = 2000


def draw_run(experiment: Experiment, params: Params, workdir: Workdir, stop: StopFlag) -> None:
  """Writes the run's figures into workdir.figures.

  These are loss, samples, error budget and, if measured, score error and Girsanov's bound.

  Args:
    experiment: the experiment.
    params: the evaluated parameters.
    workdir: directory of an evaluated run.
    stop: checked between figures.

  Raises:
    Preempted: a stop was requested.
  """
  result = json.loads(workdir.evaluation.read_text())
  figures = {
    "loss": lambda: loss_figure(experiment, workdir),
    "samples": lambda: samples_figure(experiment, params, workdir),
    "budget": lambda: budget_figure(result),
  }
  if "score_error" in result:
    figures["score_error"] = lambda: score_error_figure(experiment, result)
  if "girsanov" in result:
    figures["girsanov"] = lambda: girsanov_figure(experiment, result)
  if "flow" in result:
    figures["nats"] = lambda: nats_figure(experiment, result)
  save_figures(figures, workdir, stop)


def save_figures(
  figures: Mapping[str, Callable[[], Figure]], workdir: Workdir, stop: StopFlag
) -> None:
  """Draws figures into workdir.figures.

  A figure that fails is reported as a warning on stderr: the run's numbers are complete, and the
  other figures are drawn.

  Args:
    figures: drawing functions by file name.
    workdir: directory of an evaluated run.
    stop: checked between figures.

  Raises:
    Preempted: a stop was requested.
    OSError: the folder cannot be written.
  """
  command = typed_command(workdir)
  for name, figure in figures.items():
    stop.check()
    path = workdir.figures / f"{name}.png"
    path.unlink(missing_ok=True)  # of an earlier evaluation
    try:
      with np.errstate(all="ignore"):  # values that are not finite are not drawn
        style.save(figure(), path, command)
    except OSError:
      raise
    except Exception as error:  # NumPy and Matplotlib may raise anything
      said = str(error).partition("\n")[0]
      print(f"warning: {path} is not drawn: {type(error).__name__}: {said}", file=sys.stderr)


def typed_command(workdir: Workdir) -> str:
  """Returns the command that started a run."""
  record = json.loads((workdir.path / "environment.json").read_text())
  program, *arguments = record.get("command", ["main.py"])
  return shlex.join(["python", pathlib.Path(program).name, *arguments])


def kept_rows(workdir: Workdir) -> dict[str, str]:
  """Returns the sampler of every row whose samples were kept, by label, in the rows' order.

  A run from before labels were unique may have kept fewer sets of samples than rows.
  """
  rows = json.loads(workdir.evaluation.read_text())["rows"]
  with np.load(workdir.samples) as arrays:
    kept = set(arrays.files)
  labelled = zip(row_labels(rows), rows, strict=True)
  return {label: row["sampler"] for label, row in labelled if label in kept}


def loss_figure(
  experiment: Experiment, workdir: Workdir, lines: dict[str, float] | None = None
) -> Figure:
  """Plots the training and validation loss of a run; `lines` are values to mark, by label."""
  history = read_jsonl(workdir.metrics)
  bands = next((len(h["band_loss"]) for h in history if "band_loss" in h), 0)
  ends = (experiment.schedule.t_min, experiment.schedule.t_max)
  cleanest, noisiest = (float(experiment.schedule.log_snr(jnp.asarray(t))) for t in ends)
  edges = np.exp(-np.linspace(cleanest, noisiest, bands + 1)) if bands else None
  training = experiment.config["training"]
  size, num_validation = training["batch_size"] or "all", len(experiment.validation["x"])
  text = (
    f"each point: mean over {training['log_every']} steps of {size} points; "
    f"validation: {num_validation} points"
  )
  return curves.loss(history, edges, text, lines)


def score_error_figure(experiment: Experiment, result: dict[str, Any]) -> Figure:
  """Plots the score error of a run by level."""
  text = (
    f"{experiment.evaluation.score_samples} draws at each level, half of them with "
    f"{SPREAD:g} times the noise, weighted;\nbars: standard errors"
  )
  return curves.score_error(result["score_error"], text)


def girsanov_figure(experiment: Experiment, result: dict[str, Any]) -> Figure:
  """Plots the learning cost per level, and Girsanov's bound on the reverse SDE's KL."""
  bound = result["girsanov"]
  text = (
    f"{experiment.evaluation.score_samples} exact draws, the same x0 and noise at each of "
    f"{len(bound['sigma'])} levels;\n"
    f"the bound holds for the reverse SDE at sigma / alpha = {bound['sigma'][-1]:.2g}, not for the "
    "probability flow"
  )
  return curves.girsanov(bound, text)


def nats_figure(experiment: Experiment, result: dict[str, Any]) -> Figure:
  """Plots by level the KL of laws of a run's score: exact ones, and the reverse SDE's bound.

  Evaluations from before the ancestral sampler's KL was measured are drawn without it.
  """
  draws = experiment.evaluation.score_samples
  text = (
    f"line: bound on the reverse SDE's KL in continuous time, from {draws} draws;\n"
    "points: KL by quadrature of two other laws of the same score, for which it does not hold;\n"
    "band and bars: standard error, and error of the quadrature"
  )
  return curves.nats_by_level(result["girsanov"], result["flow"], result.get("ancestral"), text)


def protocol_text(result: dict[str, Any]) -> str:
  """Describes the protocol of an evaluation in one line."""
  protocol = result["protocol"]
  over = f"{protocol['num_keys']} keys"
  if "num_members" in protocol:
    over = f"{protocol['num_members']} seeds, each the mean of {over}"
  return (
    f"{protocol['num_samples']} samples v {protocol['num_reference']} points "
    f"({protocol['reference']}), {protocol['num_projections']} projections, mean and standard "
    f"error over {over}" + (f"; {floor_note(protocol)}" if "num_exact" in protocol else "")
  )


def budget_figure(result: dict[str, Any]) -> Figure:
  """Plots the error budget of every row and metric of a run."""
  rows = result["rows"]
  by_metric = {name: [row["metrics"][name] for row in rows] for name in rows[0]["metrics"]}
  labels = [
    f"{textwrap.fill(label, 21)}\n{row['nfe']} NFE"
    for label, row in zip(row_labels(rows), rows, strict=True)
  ]
  text = protocol_text(result)
  if not {*by_metric}.isdisjoint(exact_laws.NAMES.values()):
    text += f";\n{' and '.join(n for n in by_metric if n in exact_laws.NAMES.values())}: exact laws"
  return budgets.bars(labels, by_metric, text)


def samples_figure(experiment: Experiment, params: Params, workdir: Workdir) -> Figure:
  """Plots the data and each row's samples, and both score fields in 1-D and 2-D."""
  if len(experiment.target.event_shape) == 3:
    return albums_figure(workdir)
  clouds = run_clouds(experiment, workdir)
  data = clouds[0].points
  learned = not isinstance(experiment.parameterization, Exact)
  protocol = experiment.evaluation
  compared = learned and protocol.comparable and protocol.observation is None
  compared = compared and data.shape[1] <= 2
  field = middle_field(experiment, params, data) if compared else None
  sizes = [len(cloud.points) for cloud in clouds]
  text = f"{sizes[0]} points each" if len({*sizes}) == 1 else f"{sizes[0]} exact points"
  if len({*sizes}) > 1:
    text += f", {min(sizes[1:])} of each sampler"
  text += ", of the evaluation's first key"
  if data.shape[1] > 2:
    text += "; the first two coordinates"
  if clouds[0].off is not None:
    text += f"; black: beyond {mode_radius(data.shape[1]):.3g} std of every mode"
  return fields.samples(clouds, field, text, getattr(experiment.target, "names", None))


def albums_figure(workdir: Workdir, number: int = 64) -> Figure:
  """Shows images of the reference next to those of each row."""
  with np.load(workdir.samples) as arrays:
    sets = {name: arrays[name][:number] for name in ["reference", *kept_rows(workdir)]}
  titles = ["real", *(textwrap.fill(name.replace("-", " "), 34) for name in list(sets)[1:])]
  pages = [images.Album(*page) for page in zip(sets.values(), titles, strict=True)]
  return images.albums(pages, "the first images of the evaluation's first key, as they came")


def run_clouds(experiment: Experiment, workdir: Workdir) -> list[Cloud]:
  """Returns exact samples and those of each row, with the points that belong to no mode."""
  target, kept = experiment.law or experiment.target, kept_rows(workdir)
  with np.load(workdir.samples) as arrays:
    sets = {name: arrays[name][:_MAX_POINTS] for name in ["exact", *kept]}
  names = ["exact samples", *kept]
  colours = [style.GREY, *map(style.sampler_colour, kept.values())]
  clouds = []
  for points, name, colour in zip(sets.values(), names, colours, strict=True):
    flat = points.reshape(len(points), -1)
    clouds.append(Cloud(flat, textwrap.fill(name, 24), colour, off_mode(target, flat)))
  return clouds


def off_mode(target: object, points: np.ndarray) -> np.ndarray | None:
  """Returns a mask [n] of the points [n, d] that belong to no mode; None without modes."""
  return beyond_modes(points, target) if has_modes(target) else None


def middle_field(
  experiment: Experiment, params: Params, points: np.ndarray, num: int = 22
) -> ScoreField:
  """Evaluates both scores on a lattice around points.

  The level is the measured one nearest to a quarter of the data's std.
  """
  target = experiment.target
  measured = experiment.evaluation.score_levels or (float(target.scale) / 4,)
  ratio = min(measured, key=lambda r: abs(np.log((r + 1e-3) / (float(target.scale) / 4))))
  level = experiment.schedule.at_ratio(ratio)
  low, high = fields.box(points)
  x = fields.lattice(low, high, num if points.shape[1] == 2 else 200)
  truth = truth_of(target)

  @jax.jit
  def scores(params: Params, x: Array) -> tuple[Array, Array]:
    at = level.alpha * x
    predict = experiment.parameterization.bind(params)
    return predict(at, level).score, truth.predict(at, level).score

  network, exact = scores(params, jnp.asarray(x, jnp.float32))
  return ScoreField(x, np.asarray(network), np.asarray(exact), ratio)
