"""An evaluation as text: standard errors, and what a floor is of."""

from scorelab.evaluation.table import format_table

BUDGET = {"value": 2.0, "sem": 0.1, "floor": 1.0, "prior": 0.0, "discretisation": 0.0} | {
  "learning": 1.0
}


def _table(protocol=None, **more):
  protocol = {"num_keys": 2, "num_samples": 2000} | (protocol or {})
  row = {"sampler": "heun", "options": {}, "num_steps": 2, "nfe": 3, "label": "heun-2"}
  rows = [row | {"metrics": {"frechet": BUDGET}}]
  return format_table({"protocol": protocol, "rows": rows} | more)


def test_score_errors_have_their_standard_errors_below_them():
  errors = {"sigma": [1.0, 2.0], "relative": [2.9e-4, 0.5], "relative_sem": [1.44e-5, float("nan")]}
  errors |= {"relative_by_mode": [8e-4, 0.25], "relative_by_mode_sem": [3e-5, None]}
  lines = [line.split() for line in _table(score_error=errors).splitlines()]
  assert ["relative", "score", "error", "0.00029", "0.5"] in lines
  assert ["+-", "1.44e-05", "-"] in lines
  assert ["at", "sigma", "=", "1", "0.0008", "0.25"] in lines
  assert ["+-", "3e-05", "-"] in lines


def test_a_floor_of_other_sizes_says_so():
  note = "floors: of 1212 exact samples, where rows have 2000"
  assert note in _table({"num_exact": 1212}).splitlines()
  assert "exact samples" not in _table()
