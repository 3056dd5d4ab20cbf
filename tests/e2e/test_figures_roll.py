"""The figures of 2015's chain on a run of seconds: both forms, and the optimum beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import diffusion2015_swissroll_published
from scorelab import plotting, training
from scorelab.experiment.build import build
from scorelab.runs.files import write_json
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.schedules.discrete import Discrete
from scripts import figures
from scripts.drawing import roll

pytestmark = [pytest.mark.usefixtures("quick_compilation")]
NAME, OTHER = "diffusion2015_swissroll_published", "diffusion2015_swissroll"


@pytest.fixture
def finished(tmp_path):
  """A run of few steps of the published form, and beside its figures the other form's numbers."""
  config = diffusion2015_swissroll_published.get_config("fast")
  config.network.update(widths=(8,), head_widths=(8,))
  config.training.update(num_steps=4, log_every=1, checkpoint_every=1, keep_every=1)
  config.training.update(batch_size=39, num_validation=39)
  config.evaluation.update(num_samples=50, num_reference=50, num_projections=5)
  config.evaluation.metrics = (roll.METRIC,)
  experiment = build(config)
  workdir = open_workdir(tmp_path / "run", experiment.config, {})
  training.train(experiment, workdir, StopFlag())
  write_json(workdir.evaluation, {})  # no figure here reads it
  workdir.done.touch()

  of_metric = (f"{roll.METRIC}{n}" for n in ("", "_sem", "_floor", "_floor_sem"))
  names = ("step", "kl_per_dim", *of_metric)
  other = tmp_path / "out" / OTHER
  plotting.write_csv(other / "learning.csv", [dict.fromkeys(names, n) for n in (1, 2)], "")
  steps = [{"t": t, "kl_per_dim": 0.1} for t in range(2, 41)]
  plotting.write_csv(other / "learning_steps.csv", steps, "")
  return workdir.path, tmp_path / "out" / NAME


def test_both_forms_side_by_side(finished, monkeypatch):
  monkeypatch.setattr(roll, "_KL_POINTS", 100)
  monkeypatch.setattr(roll, "optimum", lambda schedule, T: np.full(T - 1, 0.05))
  drawn = []
  draw = plotting.chains.learning
  monkeypatch.setattr(
    plotting.chains, "learning", lambda forms, *rest: drawn.extend(forms) or draw(forms, *rest)
  )
  run, out = finished
  assert figures.main([NAME, "--workdir", str(run), "--out", str(out), "--keys", "2"]) == 0
  assert [form.label for form in drawn] == ["corrected", "published form"]
  assert {p.stem for p in out.glob("*.png")} == {"loss", "through_time", "learning"}
  for file in out.glob("*.png"):
    assert 3000 < file.stat().st_size < 300_000
    assert Image.open(file).info["Description"].startswith(f"python scripts/figures.py {NAME}")
  records = plotting.read_csv(out / "learning.csv")
  assert [r["step"] for r in records] == [1, 2, 4]  # every checkpoint was kept
  steps = plotting.read_csv(out / "learning_steps.csv")
  assert [r["t"] for r in steps] == list(range(2, 41))
  mean = np.mean([r["kl_per_dim"] for r in steps])
  np.testing.assert_allclose(records[-1]["kl_per_dim"], mean, rtol=1e-6)
  clouds = plotting.read_csv(out / "through_time.csv")
  assert [r["t"] for r in clouds] == [0, 20, 40] * 2
  for noise in (clouds[2], clouds[5]):  # both ends
    assert noise["std_x1"] == pytest.approx(1, abs=0.05)


def test_the_optimum_of_a_gaussian(monkeypatch):
  """x_0 = (g, g), g of N(0, s^2): two looks at one number, Var[g | x_t] = 1 / (1 / s^2 + 2 SNR)."""
  schedule, std = Discrete(np.array([0.1, 0.3, 0.5])), 0.7
  monkeypatch.setattr(roll, "roll", lambda u: std * jnp.stack([jax.scipy.special.ndtri(u)] * 2, -1))
  found = roll.optimum(schedule, 3, 100)
  alpha2 = np.cumprod([0.9, 0.7, 0.5])
  snr = alpha2 / (1 - alpha2)
  variance = 1 / (1 / std**2 + 2 * snr[1:])
  # The entropy that the Gaussian of this variance has beyond q's own, which knows x_0.
  expected = np.log1p((snr[:-1] - snr[1:]) * variance) / 2
  np.testing.assert_allclose(found, expected, rtol=0.01)


def test_validation_sees_every_level():
  """Where a training batch shares its level, the validation loss is still the whole chain's."""
  config = diffusion2015_swissroll_published.get_config("fast")
  experiment = build(config)
  config.loss.uniforms = None
  spread = build(config)
  params, key = experiment.init_params(jax.random.key(0)), jax.random.key(1)
  found = experiment.validate(params, key, experiment.validation, None)["val_loss"]
  assert found == spread.validate(params, key, experiment.validation, None)["val_loss"]
  one_level, _ = experiment.loss(params, jax.random.split(key)[0], experiment.validation, None)
  assert found != one_level
