"""The figure of scripts/pareto.py shows what it was given."""

import numpy as np

from scorelab.plotting import pareto, style
from scorelab.plotting.curves import Curve

LOOKED_AT = [("ddim", False), ("dpmpp_sde", True)]


def test_pareto_has_a_panel_for_each_target_and_score():
  """A target without an exact score has an empty place; the floor and every sampler are named."""
  nfe, value = np.array([4.0, 8.0]), np.array([3.0, 1.2])
  looks = [pareto.line_style(name, dashed=d, number=i) for i, (name, d) in enumerate(LOOKED_AT)]
  curves = [Curve(name, nfe, value, value / 10, look) for (name, _), look in zip(LOOKED_AT, looks)]  # noqa: B905
  panels = [
    pareto.Panel("ring", "exact", curves, 1.0, 0.1),
    pareto.Panel("ring", "learned", curves, 1.0, 0.1),
    pareto.Panel("board", "learned", curves[:1], 1.0, np.nan),
  ]
  figure = pareto.pareto(panels, "max_sliced_wasserstein", "text")
  shown = [ax.get_title() for ax in figure.axes if ax.get_visible()]
  assert shown == ["ring, exact score", "ring, learned score", "board, learned score"]
  (legend,) = figure.legends
  names = [text.get_text() for text in legend.get_texts()]
  assert names == ["ddim", "off the front", "floor (exact v exact)"]
  assert [look["ls"] for look in looks] == ["-", "--"]
  assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_the_front_is_drawn_in_colours_and_the_rest_in_grey():
  """Best for its evaluations by a tenth, until one is at the floor; later ones differ by chance."""

  def curve(name, *points):
    nfe, value = np.array(points, float).T
    return Curve(name, nfe, value, 0.1 * value, pareto.line_style(name, dashed=False, number=0))

  curves = [
    curve("deis", (4, 5.0), (8, 1.5)),  # first of all, and then overtaken
    curve("heun", (5, 3.0), (9, 1.05)),  # the first at the floor
    curve("lms", (5, 2.95), (8, 2.0)),  # ahead of heun, but not of deis
    curve("rk4", (5, 4.8), (16, 1.0)),  # less than a tenth, and lower only below the floor
    curve("ddim", (4, np.nan), (6, 2.9)),
  ]
  panel = pareto.Panel("ring", "exact", curves, 1.0, 0.1)
  assert pareto.front(panel) == {"deis", "heun", "lms"}
  figure = pareto.pareto([panel], "max_sliced_wasserstein", "text")
  drawn = {line.get_color() for line in figure.axes[0].lines if len(line.get_xdata()) == 2}
  assert {"#C9C9C9"} < drawn
  legend = dict(zip(*reversed([figure.legends[0].get_lines(), figure.legends[0].get_texts()])))  # noqa: B905
  colours = {text.get_text(): line.get_color() for text, line in legend.items()}
  assert {colours[name] for name in ("deis", "heun", "lms")} <= set(style.SAFE_COLOURS)
  assert len({colours[name] for name in ("deis", "heun", "lms")}) == 3
  assert colours["heun"] == style.SAMPLER_COLOURS["heun"]
