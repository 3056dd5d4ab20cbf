"""The figure of scripts/pareto.py shows what it was given."""

import numpy as np

from scorelab.plotting import pareto
from scorelab.plotting.curves import Curve

LOOKED_AT = [("ddim", False), ("dpmpp_sde", True)]


def test_pareto_has_a_panel_for_each_target_and_score():
  """A target without an exact score has an empty place; the floor and every sampler are named."""
  nfe, value = np.array([4.0, 8.0]), np.array([3.0, 1.2])
  looks = [pareto.look(name, dashed=d, number=i) for i, (name, d) in enumerate(LOOKED_AT)]
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
  assert names == ["ddim", "dpmpp_sde", "floor (exact v exact)"]
  assert [look["ls"] for look in looks] == ["-", "--"]
  assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
