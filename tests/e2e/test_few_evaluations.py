"""scripts/few_evaluations.py: candidates cost five evaluations, and a descent ends lower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorelab.plotting import read_csv
from scorelab.samplers import SAMPLERS
from scorelab.schedules import karras
from scorelab.targets import TARGETS
from scripts import few_evaluations


@pytest.mark.parametrize("candidate", few_evaluations.CANDIDATES, ids=lambda c: c.label)
def test_a_candidate_takes_five_evaluations(candidate):
  counted, predict = [], TARGETS["nine_modes"]().predict

  def run(key):
    grid = karras(few_evaluations.SCHEDULE, candidate.num_steps)
    samples = SAMPLERS[candidate.sampler](key, predict, jnp.ones((1, 2)), grid, **candidate.options)
    counted.append(samples.nfe)
    return samples.x

  jax.eval_shape(run, jax.random.key(0))
  assert counted == [5]


def test_a_descent_finds_known_levels(x64):
  """Where the loss is a sum of squares of the log-SNRs' distances from increasing ones."""
  known = np.array([-6.0, -2.5, -1.0, 0.5])
  value, found = few_evaluations.descend(
    lambda levels: jnp.sum((levels - known) ** 2), np.array([-4.0, -2.0, 0.0, 2.0])
  )
  assert value < 1e-9
  np.testing.assert_allclose(found, known, atol=1e-4)


def test_the_fast_study(tmp_path, capsys):
  assert few_evaluations.main(["--fast", "--out", str(tmp_path)]) == 0
  (found,) = read_csv(tmp_path / "found.csv")
  assert found["found_energy"] < found["stock_energy"]
  rows = read_csv(tmp_path / "transfer.csv")
  assert [row["target"] for row in rows[::2]] == ["nine_modes", "ring", "grid25"]
  assert {row["grid"] for row in rows[::2]} == {"found"}
  assert "sampler.log_snrs = (" in capsys.readouterr().out
