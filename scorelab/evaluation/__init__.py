"""Evaluation: metrics of a network next to the exact score, with their error budget."""

from scorelab.evaluation.draw import Programs, draw_sets, sample_in_batches, sample_row
from scorelab.evaluation.evaluator import evaluate, measure, read
from scorelab.evaluation.scores import measure_girsanov, measure_scores
from scorelab.evaluation.table import format_table, row_labels

__all__ = [
  "Programs",
  "draw_sets",
  "evaluate",
  "format_table",
  "measure",
  "measure_girsanov",
  "measure_scores",
  "read",
  "row_labels",
  "sample_in_batches",
  "sample_row",
]
