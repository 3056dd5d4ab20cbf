"""Figures and animations: functions of arrays that return a matplotlib Figure, and their files."""

from scorelab.plotting import (
  animations,
  budgets,
  chains,
  circles,
  comparisons,
  curves,
  ensembles,
  fields,
  images,
  schedules,
  style,
  summary,
  trajectories,
)
from scorelab.plotting.animations import render, save_animation
from scorelab.plotting.ensembles import draw_ensemble
from scorelab.plotting.style import read_csv, save, write_csv
from scorelab.plotting.summary import draw_run

__all__ = [
  "animations",
  "budgets",
  "chains",
  "circles",
  "comparisons",
  "curves",
  "draw_ensemble",
  "draw_run",
  "ensembles",
  "fields",
  "images",
  "read_csv",
  "render",
  "save",
  "save_animation",
  "schedules",
  "style",
  "summary",
  "trajectories",
  "write_csv",
]
