"""Figures and animations: functions of arrays that return a matplotlib Figure, and their files."""

from scorelab.plotting import (
  animations,
  budgets,
  chains,
  circles,
  comparisons,
  curves,
  fields,
  images,
  schedules,
  style,
  trajectories,
)
from scorelab.plotting.animations import render, save_animation
from scorelab.plotting.style import read_csv, save, write_csv

__all__ = [
  "animations",
  "budgets",
  "chains",
  "circles",
  "comparisons",
  "curves",
  "fields",
  "images",
  "read_csv",
  "render",
  "save",
  "save_animation",
  "schedules",
  "style",
  "trajectories",
  "write_csv",
]
