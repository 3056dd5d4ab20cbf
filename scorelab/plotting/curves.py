"""Plots curves: the loss, the score error by level, metrics against NFE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from scorelab.plotting import style

RELATIVE = "relative: E|s - s*|^2 / E|s*|^2"


class Curve(NamedTuple):
  """A sampler's metric against NFE; all arrays [n].

  Attributes:
    label: for the legend.
    nfe: network evaluations.
    value: mean over keys.
    sem: its standard error.
    look: colour, marker, linestyle, as for `Axes.plot`.
    published: published values at the same nfe, shown as open markers, nan if unknown.
  """

  label: str
  nfe: np.ndarray
  value: np.ndarray
  sem: np.ndarray
  look: Mapping[str, Any]
  published: np.ndarray | None = None


@style.context()
def loss(
  history: Sequence[Mapping[str, Any]],
  edges: np.ndarray | None,
  text: str,
  lines: Mapping[str, float] | None = None,
) -> Figure:
  """Plots the training and validation loss, and the training loss by noise band.

  Args:
    history: the objects of metrics.jsonl; may be empty.
    edges: [bands + 1], the bands' ends in sigma / alpha, cleanest first; None draws no bands.
    text: the caption.
    lines: values to mark, by label.
  """
  bands = np.array([[style.number(b) for b in h["band_loss"]] for h in history if "band_loss" in h])
  # A loss of one level has one band: the loss itself.
  with_bands = edges is not None and bands.size > 0 and np.isfinite(bands).any(axis=0).sum() > 1
  figure = style.new_figure(8.2 if with_bands else 5, 3.1)
  axes = figure.subplots(1, 2 if with_bands else 1, squeeze=False)[0]
  step = np.array([h["step"] for h in history])
  losses = np.array([style.number(h["loss"]) for h in history])
  axes[0].plot(step, losses, color=style.BLUE, label="training")
  validated = [(h["step"], h["val_loss"]) for h in history if h.get("val_loss") is not None]
  if validated:
    axes[0].plot(*zip(*validated, strict=True), "o", color=style.VERMILLION, label="validation")
  shades = ("--", ":", "-.")
  for (label, value), shade in zip((lines or {}).items(), shades, strict=False):
    axes[0].axhline(value, color=style.GREY, ls=shade, label=f"{label}: {value:.4g}")
  axes[0].set(xlabel="training step", ylabel="loss")
  if with_bands:
    colours = style.NOISE_CMAP(np.linspace(0, 1, bands.shape[1]))
    for i, (band, colour) in enumerate(zip(bands.T, colours, strict=True)):
      label = f"{edges[i]:.3g} to {edges[i + 1]:.3g}"
      axes[1].plot(step, band, color=colour, lw=1, label=label)
    axes[1].set(xlabel="training step", ylabel="loss by level")
    axes[1].legend(title="sigma", loc="center left", bbox_to_anchor=(1, 0.5))
    log_where_positive(axes[1], bands)
  if history:
    log_where_positive(axes[0], losses)
    axes[0].legend()
  else:
    axes[0].text(0.5, 0.5, "no training step", ha="center", transform=axes[0].transAxes)
  style.caption(figure, text)
  return figure


def log_where_positive(ax: Axes, values: np.ndarray, factor: float = 5) -> bool:
  """Makes the y axis logarithmic if all values are positive and span more than a factor."""
  finite = values[np.isfinite(values)]
  spans = finite.size > 0 and finite.min() > 0 and finite.max() > factor * finite.min()
  if spans:
    ax.set_yscale("log")
    subs = (1, 2, 5) if finite.max() < 100 * finite.min() else (1,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
  return spans


@style.context()
def score_error(errors: Mapping[str, Sequence[float]], text: str) -> Figure:
  """Plots the score error against the level, both axes logarithmic; at a single level, by mode.

  Args:
    errors: score_error of evaluation.json: sigma, absolute and relative, each [levels], and
      optionally relative_by_mode [modes]; each optionally with a standard error, NAME_sem. If 0,
      the level of the data, is among several levels, they are spaced evenly.
    text: the caption.
  """
  figure = style.new_figure(5, 3.3)
  ax = figure.subplots()
  sigma, by_mode = errors["sigma"], errors.get("relative_by_mode")
  if len(sigma) == 1 and by_mode is not None:
    heights = [style.number(error) for error in by_mode]
    sems = [style.number(sem) for sem in errors.get("relative_by_mode_sem", [])] or None
    places = range(1, len(by_mode) + 1)
    ax.bar(places, heights, yerr=sems, color=style.BLUE, label="in each mode")
    ax.axhline(style.number(errors["relative"][0]), color=style.BLACK, label="over all")
    ax.set(xlabel=f"mode, at level sigma / alpha = {sigma[0]:g}", ylabel=RELATIVE)
    if max(style.finite(np.array(heights)), default=0.0) > 0:
      ax.set_ylim(0, None)
    ax.set_xticks(range(1, len(by_mode) + 1))
    figure.legend(loc="outside upper center", ncols=2)
  else:
    places = range(len(sigma)) if 0 in sigma else sigma
    for name, label, marker, colour in (
      ("relative", RELATIVE, "o", style.BLUE),
      ("absolute", "absolute: sigma^2 E|s - s*|^2", "s", style.ORANGE),
    ):
      values = np.array([style.number(error) for error in errors[name]])
      if values.any():  # a log axis has no 0
        values[values == 0] = np.nan
      ax.plot(places, values, marker=marker, ms=4, color=colour, label=label)
      if sems := [style.number(sem) for sem in errors.get(f"{name}_sem", [])]:
        ax.errorbar(places, values, yerr=sems, fmt="none", color=colour, elinewidth=1, capsize=2)
    style.log_scale(ax, "y")
    ax.set(xlabel="level sigma / alpha", ylabel="squared score error")
    if 0 in sigma:
      ax.set_xticks(places, [f"{level:g}" for level in sigma])
    elif len(sigma) > 1:
      style.log_scale(ax, "x")
    ax.grid(color="#E8E8E8")
    ax.legend()
  if not any(errors["relative"]):
    ax.text(0.5, 0.5, "no error: the score is exact", ha="center", transform=ax.transAxes)
  style.caption(figure, text)
  return figure


@style.context()
def girsanov(bound: Mapping[str, Any], text: str) -> Figure:
  """Plots the learning cost per level; its integral over log sigma bounds the reverse SDE's KL.

  The bound is on the law of the reverse SDE with the learned score, run without grid error. It
  does not hold for the probability flow (`ddim`, `heun`, `dpmpp_2m`), whose KL may be larger.

  Args:
    bound: evaluation.json's girsanov: sigma, density and density_sem, each [levels], and prior,
      learning and total with their standard errors.
    text: the caption.
  """
  figure = style.new_figure(5, 3.3)
  ax = figure.subplots()
  sigma = np.asarray(bound["sigma"])
  density, sem = (
    np.array([style.number(value) for value in bound[name]]) for name in ("density", "density_sem")
  )

  def label(part: str) -> str:
    value, error = (style.number(bound[name]) for name in (part, f"{part}_sem"))
    return f"{value:.2g} ± {error:.1g} nats"

  colour = style.PART_COLOURS["learning"]
  area = {"color": colour, "lw": 0}
  ax.plot(sigma, density, color=colour, label="learning, with standard error")
  ax.fill_between(sigma, density - sem, density + sem, alpha=0.4, **area)
  integral = f"its integral: {label('learning')}"
  ax.fill_between(sigma, 0, density, alpha=0.12, label=integral, **area)
  ax.plot([], [], ls="none", label=f"prior: {label('prior')}")
  ax.plot([], [], ls="none", label=f"reverse SDE's KL <= {label('total')}")
  style.log_scale(ax, "x")
  ax.set_xlabel("level sigma / alpha")
  if np.any(style.finite(density)):
    ax.set_ylim(0, None)
  ax.set_ylabel("nats per unit of log sigma")
  ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
  figure.legend(loc="outside upper left", ncols=2, columnspacing=1, handlelength=1.5)
  style.caption(figure, text)
  return figure


@style.context()
def nats_by_level(
  bound: Mapping[str, Any], flow: Mapping[str, Any], chain: Mapping[str, Any] | None, text: str
) -> Figure:
  """Plots KL(data || model) by level of three laws of one score.

  The reverse SDE's in continuous time has Girsanov's bound; the probability flow's and the
  ancestral sampler's are exact.

  Args:
    bound: evaluation.json's girsanov: sigma, bound and bound_sem, each [levels], and prior.
    flow: evaluation.json's flow: sigma, kl and error, each [levels].
    chain: evaluation.json's ancestral: the same, and num_steps; None if it was not measured.
    text: the caption.
  """
  figure = style.new_figure(5, 3.6)
  ax = figure.subplots()
  sigma, colour = np.asarray(bound["sigma"]), style.PART_COLOURS["learning"]
  mean, sem = (np.array([style.number(v) for v in bound[name]]) for name in ("bound", "bound_sem"))
  label = "Girsanov's bound (reverse SDE, continuous time)"
  ax.plot(sigma, mean, color=colour, label=label)
  ax.fill_between(sigma, mean - sem, mean + sem, color=colour, alpha=0.4, lw=0)
  prior = style.number(bound["prior"])
  ax.axhline(prior, color=style.PART_COLOURS["prior"], ls="--", label="prior's part")
  laws = [(flow, "probability flow", style.BLACK, "o")]
  if chain is not None:
    name = f"ancestral sampler, {chain['num_steps']} steps"
    laws.append((chain, name, style.PART_COLOURS["discretisation"], "s"))
  for law, name, own, marker in laws:
    kl, error = (np.array([style.number(v) for v in law[key]]) for key in ("kl", "error"))
    look = {"color": own, "marker": marker, "ls": ":", "ms": 4, "capsize": 2}
    ax.errorbar(law["sigma"], kl, np.nan_to_num(error), label=name, **look)
  style.log_scale(ax, "x", "y")
  ax.invert_xaxis()
  ax.set(xlabel="level sigma / alpha, from noise to data", ylabel="KL(data || model), nats")
  ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
  figure.legend(loc="outside upper left", ncols=2, columnspacing=1, handlelength=1.5)
  style.caption(figure, text)
  return figure


class Panel(NamedTuple):
  """One metric of `quality`.

  Attributes:
    metric: its name.
    curves: to draw.
    floor: mean over keys of exact samples against exact samples.
    floor_sem: its standard error.
  """

  metric: str
  curves: Sequence[Curve]
  floor: float
  floor_sem: float


@style.context()
def quality(panels: Sequence[Panel], text: str, published: str = "published") -> Figure:
  """Plots metrics against NFE, with their floors.

  Args:
    panels: one for each metric, side by side.
    text: the caption.
    published: what the open markers are.
  """
  single = len(panels) == 1
  figure = style.new_figure(5.6 if single else 3.1 * len(panels), 3.6)
  for ax, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
    draw_floor(ax, panel.floor, panel.floor_sem)
    for curve in panel.curves:
      draw_curve(ax, curve)
    if any(curve.published is not None for curve in panel.curves):
      open_marker = {"marker": "o", "mfc": "none", "color": style.GREY, "ls": "none", "ms": 7}
      ax.plot([], [], **open_marker, label=published)
    style.nfe_axis(ax, [int(n) for curve in panel.curves for n in curve.nfe])
    values = np.concatenate([[panel.floor], *[curve.value for curve in panel.curves]])
    if not log_where_positive(ax, values, factor=20) and np.any(style.finite(values)):
      ax.set_ylim(bottom=0)
    ax.set_ylabel(style.metric_label(panel.metric))
    if single:
      ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
  if not single:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5))
  style.caption(figure, text)
  return figure


def draw_floor(ax: Axes, floor: float, sem: float) -> None:
  """Draws the floor as a grey band of one standard error around its mean."""
  label = style.PART_LABELS["floor"]
  spread = 0.0 if np.isnan(sem) else sem
  ax.axhspan(floor - spread, floor + spread, color=style.PART_COLOURS["floor"], lw=0, label=label)
  ax.axhline(floor, color=style.GREY, lw=0.8)


def draw_curve(ax: Axes, curve: Curve) -> None:
  """Draws a mean with its standard-error band, and published values as open markers."""
  ax.plot(curve.nfe, curve.value, label=curve.label, **curve.look)
  low, high = curve.value - curve.sem, curve.value + curve.sem
  ax.fill_between(curve.nfe, low, high, color=curve.look["color"], alpha=0.18, lw=0)
  if curve.published is not None:
    look = {"color": curve.look["color"], "marker": curve.look.get("marker", "o")}
    ax.plot(curve.nfe, curve.published, **look, mfc="none", ms=8, ls="none")


@style.context()
def overfitting(
  history: Sequence[Mapping[str, Any]], text: str, optimum: float | None = None
) -> Figure:
  """Plots overfitting on a fixed training set: training loss, validation loss and score error.

  A vertical line marks the step of the lowest validation loss: where to stop.

  Args:
    history: the objects of metrics.jsonl: step and loss, and val_loss and score_error (the relative
      one) where they were measured.
    text: the caption.
    optimum: the exact score's loss on the law itself, which is the least there; None marks none.
  """
  measured = {
    name: np.reshape([(h["step"], h[name]) for h in history if h.get(name) is not None], (-1, 2))
    for name in ("loss", "val_loss", "score_error")
  }
  with_error = len(measured["score_error"]) > 0
  figure = style.new_figure(8.4 if with_error else 5, 3.2)
  axes = figure.subplots(1, 2 if with_error else 1, squeeze=False)[0]
  axes[0].plot(*measured["loss"].T, color=style.BLUE, label="training")
  validation = measured["val_loss"]
  if len(validation):
    axes[0].plot(*validation.T, "o-", color=style.VERMILLION, label="validation")
    best = int(validation[np.argmin(validation[:, 1]), 0])
    for ax in axes:
      ax.axvline(best, color=style.BLACK, ls=":", lw=1, label=f"lowest validation loss: {best}")
  both = np.abs(style.finite(np.concatenate([measured["loss"], validation])[:, 1]))
  scale = float(np.median(both)) if both.size else 0.0
  if scale > 0 and both.max() > 20 * scale:
    axes[0].set_yscale("symlog", linthresh=scale)
  if optimum is not None:
    axes[0].axhline(optimum, color=style.GREY, ls="--", label=f"optimum: {optimum:.4g}")
  axes[0].set(xlabel="training step", ylabel="loss")
  axes[0].legend()
  if with_error:
    axes[1].plot(*measured["score_error"].T, "o-", color=style.GREEN, zorder=3)
    axes[1].set(xlabel="training step", ylabel=RELATIVE)
    log_where_positive(axes[1], measured["score_error"][:, 1])
  style.caption(figure, text)
  return figure
