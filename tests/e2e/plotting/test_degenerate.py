"""Every figure is drawn of values that no run should have: all zero, all equal, nan, one point."""

import warnings

import numpy as np
import pytest

from scorelab.evaluation import ensemble_figures as ensembles
from scorelab.metrics.budget import BUDGET
from scorelab.plotting import (
  animations,
  budgets,
  chains,
  circles,
  comparisons,
  curves,
  fields,
  images,
  pareto,
  schedules,
  studies,
  style,
  trajectories,
)

N = 6
CHANGES = {
  "zero": np.zeros_like,
  "equal": np.ones_like,
  "nan": lambda v: np.full_like(v, np.nan),
  "some nan": lambda v: np.where(np.arange(v.size).reshape(v.shape) % 3 == 0, np.nan, v),
  "infinite": lambda v: np.full_like(v, np.inf),
  "negative": lambda v: -v,
  "huge": lambda v: 1e30 * v,
}


class Values:
  """Numbers of a run: as they should be, changed, in the form that a figure takes."""

  def __init__(self, change, n=N):
    self._change, self.n = change, n

  def array(self, *shape):
    shape = shape or (self.n,)
    values = np.linspace(0.5, 3, int(np.prod(shape))).reshape(shape)
    return self._change(values).astype(float)

  def sem(self, *shape):
    """Standard errors, which are never negative."""
    return np.abs(self.array(*shape))

  def list(self, *shape):
    """As in a JSON file: None where a number is not finite."""

    def finite(v):
      return [finite(w) for w in v] if isinstance(v, list) else v if np.isfinite(v) else None

    return finite(self.array(*shape).tolist())

  def number(self):
    return self.list(1)[0]

  def error(self):
    return None if self.number() is None else abs(self.number())

  def steps(self):
    """What is never degenerate: numbers of steps or evaluations, and levels."""
    return 2 ** np.arange(self.n)

  def budget(self):
    parts = ("value", *BUDGET)
    numbers = {part: self.number() for part in parts}
    return numbers | dict.fromkeys([*(f"{p}_sem" for p in parts), "sem"], self.error())

  def history(self):
    names = ("loss", "val_loss", "score_error")
    lines = zip(self.steps(), self.list(), self.list(self.n, 3), strict=True)
    return [
      {"step": int(s), **dict.fromkeys(names, v), "band_loss": bands} for s, v, bands in lines
    ]

  def curve(self):
    look = pareto.line_style("ddim", dashed=False, number=0)
    return curves.Curve("ddim", self.steps(), self.array(), self.sem(), look, self.array())

  def field(self, dim):
    x = fields.lattice(-np.ones(dim), np.ones(dim), 5)
    return fields.ScoreField(x, self.array(*x.shape), self.array(*x.shape), 1.0)

  def clouds(self, dim):
    off = np.arange(self.n) < 1
    return [fields.Cloud(self.array(self.n, dim), "a", style.BLUE, off) for _ in range(2)]

  def album(self):
    return images.Album(self.array(self.n, 3, 3, 1), "a")

  def errors(self, sigma):
    n = len(sigma)
    return {"sigma": list(sigma), "absolute": self.list(n), "relative": self.list(n)}

  def bound(self):
    parts = {name: self.number() for name in ("prior", "learning", "total")}
    errors = {f"{name}_sem": self.error() for name in parts}
    lists = {"density": self.list(), "density_sem": self.list()}
    return {"sigma": self.steps().tolist(), **lists, **parts, **errors}

  def lines(self):
    values = zip(self.array().tolist(), self.sem().tolist(), strict=True)
    pairs = dict(zip(map(float, self.steps()), values, strict=True))
    return {"a": {("ddim 4", ""): pairs}, "b": {("any", "x"): pairs}}


def scores_1d(v):
  return fields.samples(v.clouds(1), v.field(1), "text")


def scores_2d(v):
  return fields.samples(v.clouds(2), v.field(2), "text")


def moving_clouds(v):
  figure, draw = animations.moving_clouds(
    [v.array(2, v.n, 2)], v.array(2), np.ones(2), ["a"], "text", colour=style.BLUE,
    field=(fields.lattice(-np.ones(2), np.ones(2), 4), [v.array(2, 16, 2)]), trails=1,
  )  # fmt: skip
  draw(1)
  return figure


def learning(v):
  names = ("step", "kl_per_dim", "sliced_wasserstein", "sliced_wasserstein_sem")
  names += ("sliced_wasserstein_floor", "sliced_wasserstein_floor_sem")
  own = dict.fromkeys(names, v.array(1)[0]) | dict.fromkeys(names[3::2], v.sem(1)[0])
  records = [own | {"step": int(s)} for s in v.steps()]
  form = chains.Learning("a", records, v.array(), style.BLUE, "o")
  return chains.learning([form], v.array(), "text")


def memorisation(v):
  pair = (v.array(), v.array())
  nearest, errors = {"a": pair, "b": pair}, {"a": v.array(), "b": v.array()}
  return circles.memorisation(
    v.array(v.n, 2), v.array(3, 2), nearest, v.steps().astype(float), errors, "text"
  )


def chains_of(v):
  x = fields.lattice(-np.ones(2), np.ones(2), 4)
  panel = trajectories.Chains(v.array(3, v.n, 2), "a", "b", style.BLUE, v.array(16, 2), v.array(2))
  return trajectories.chains([panel], x, v.array(v.n, 2), v.array(2), "text")


def through_time(v):
  t = np.linspace(1, 0, v.n + 1)
  path, x = v.array(v.n + 1, 3), np.linspace(-1, 1, 5)
  row = trajectories.ThroughTime(t, path, path, t, x, v.array(v.n + 1, 5))
  return trajectories.through_time({"a": row}, "text")


def process(v):
  given = schedules.Process("a", np.linspace(0, 1, v.n), *(v.array() for _ in range(4)))
  return schedules.comparison({"b": [given]}, "text")


def numbers_of_runs(v):
  row = {"config": "a", "sampler": "ddim", "nfe": 4, "x": v.number(), "x_sem": v.error()}
  return comparisons.table([row] * 2, {"x": ("x", "x_sem", "x")}, "text")


def grids(v):
  row = {"grid": "karras", "mean": 1.0, "gain": v.array(1)[0], "gain_sem": v.error()}
  levels = {"a": v.steps()[::-1].astype(float)}
  return comparisons.grids(levels, [("a", "b", row)], "text")


def losses_compared(v):
  sigma = v.steps().astype(float)
  line = studies.Line("a", "levels", sigma, v.array(2, v.n), sigma, v.array(2, v.n))
  at_data = line._replace(study="data", levels=np.zeros(1), values=v.array(2, 1))
  return studies.loss_comparison({10: [line, at_data]}, 2)


def floor_of(v):
  return v.array(1)[0]


FIGURES = {
  "loss": lambda v: curves.loss(v.history(), np.array([0.1, 1, 2, 5]), "text", {"a": floor_of(v)}),
  "overfitting": lambda v: curves.overfitting(v.history(), "text", floor_of(v)),
  "score_error": lambda v: curves.score_error(v.errors(v.steps().tolist()), "text"),
  "score_error at 0": lambda v: curves.score_error(v.errors([0.0, *v.steps().tolist()]), "text"),
  "score_error by mode": lambda v: curves.score_error(
    v.errors([1.0]) | {"relative_by_mode": v.list()}, "text"
  ),
  "girsanov": lambda v: curves.girsanov(v.bound(), "text"),
  "quality": lambda v: curves.quality(
    [curves.Panel("a", [v.curve()], floor_of(v), v.sem(1)[0])] * 2, "text"
  ),
  "pareto": lambda v: pareto.pareto(
    [pareto.Panel("a", "exact", [v.curve()], floor_of(v), v.sem(1)[0])], "a", "text"
  ),
  "bars": lambda v: budgets.bars(["a", "b"], {"x": [v.budget(), v.budget()]}, "text"),
  "bands": lambda v: budgets.bands(
    [[budgets.Bands("a", "x", v.steps(), [v.budget()] * v.n, {"learning": v.array()})]], "text"
  ),
  "samples 1-D": scores_1d,
  "samples 2-D": scores_2d,
  "samples 3-D": lambda v: fields.samples(v.clouds(3), None, "text"),
  "score_map": lambda v: fields.score_map(
    v.field(2), 1, v.array(v.n, 2), {(0.0, 0.0): floor_of(v)}, "text"
  ),
  "albums": lambda v: images.albums([v.album(), v.album()], "text"),
  "neighbours": lambda v: images.neighbours({"a": v.array()}, [v.album(), v.album()], "text"),
  "image table": lambda v: images.table(v.array(2, v.n, 3, 3, 1), ["a"] * v.n, "text"),
  "over_steps": lambda v: images.over_steps(v.steps().tolist(), {"a": (v.array(), 1.0)}, "text"),
  "losses": lambda v: ensembles.losses(
    {"a": [ensembles.Band("x", v.steps(), v.array(2, v.n))], "b": []}, "text"
  ),
  "score_errors": lambda v: ensembles.score_errors({"a": v.errors(v.steps().tolist())}, "text"),
  "against": lambda v: ensembles.against("x.y", v.lines(), {"a": v.sem(2)}, "text"),
  "chains": chains_of,
  "through_levels": lambda v: trajectories.through_levels(
    [trajectories.LevelPath("a", v.array())], v.array(), np.abs(v.array()), "text"
  ),
  "through_time": through_time,
  "process": process,
  "numbers of runs": numbers_of_runs,
  "lines": lambda v: comparisons.lines(v.steps(), {"a": v.array()}, "text", "x", "y"),
  "distributions": lambda v: comparisons.distributions({"a": v.array()}, "text", "x"),
  "grids": grids,
  "losses compared": losses_compared,
  "memorisation": memorisation,
  "loss of circles": lambda v: circles.loss(v.steps(), v.array(), {1: 1.0}, 1.0, "text"),
  "chain's curves": lambda v: circles.curves(v.array(), v.array()),
  "heat_maps": lambda v: circles.heat_maps({"a": circles.kernel_map(v.array(v.n, 2))}, "text"),
  "learning": learning,
  "clouds through time": lambda v: chains.through_time(
    [v.array(v.n, 2)], [v.array(v.n, 2)], (["a"], ["b"]), [1.0], "text"
  ),
  "moving_clouds": moving_clouds,
}


def draw(make, values):
  """Draws a figure, as `summary.save_figures` does; any warning is an error."""
  with warnings.catch_warnings(), np.errstate(all="ignore"):
    warnings.simplefilter("error")
    figure = make(values)
    figure.set_layout_engine("none")  # it takes most of the time
    figure.set_dpi(30)
    figure.canvas.draw()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", FIGURES)
def test_any_values_are_drawn(name, change):
  draw(FIGURES[name], Values(CHANGES[change]))


@pytest.mark.parametrize("name", FIGURES)
def test_one_point_is_drawn(name):
  draw(FIGURES[name], Values(lambda v: v, n=1))
