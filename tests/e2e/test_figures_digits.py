"""scripts/figures.py on digits: a run of seconds, and the sheet that compares what runs left."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from configs import vp_digits
from scorelab import plotting, training
from scorelab.experiment.build import build
from scorelab.predictions import Prediction
from scorelab.runs.files import write_json
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scripts import figures
from scripts.drawing import digits
from scripts.drawing.source import open_source

SETS = ("heun-3", "dpmpp_2m-2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A tiny run as it is left; its samples are training digits and noise, its numbers made up."""
  config = vp_digits.get_config("fast")
  config.network.update(widths=(8,), norms=(False,))
  config.training.update(num_steps=6, log_every=2, checkpoint_every=2, patience=0)
  config.evaluation.update(rows=("dpmpp_2m:2",), metrics=("frechet",))
  config.sampler.num_steps = 3
  experiment = build(config)
  workdir = open_workdir(tmp_path_factory.mktemp("run"), experiment.config, {})
  training.train(experiment, workdir, StopFlag())
  splits = {name: np.asarray(x) for name, x in experiment.target.splits.items()}
  noise = np.random.default_rng(0).uniform(-1, 1, (50, 8, 8, 1)).astype(np.float32)
  slightly = splits["train"][:50] + np.float32(0.06)  # less than half a bin: the same digits
  sets = dict(zip(SETS, (slightly, noise), strict=True))
  np.savez(workdir.samples, exact=splits["train"], reference=splits["test"], **sets)
  parts = {"floor": 0.4, "prior": None, "discretisation": None, "learning": None}
  numbers = {"value": 0.6, "sem": 0.1, **parts, **{f"{part}_sem": None for part in parts}}
  metrics = dict.fromkeys(("frechet", "confident_share", "class_count"), numbers)
  protocol = {"num_keys": 2, "num_samples": 50, "num_reference": 450, "reference": "test"}
  rows = [
    {"label": name, "sampler": name.split("-")[0], "nfe": 3, "metrics": metrics} for name in SETS
  ]
  write_json(workdir.evaluation, {"protocol": {**protocol, "num_projections": 1}, "rows": rows})
  workdir.done.touch()
  return workdir.path


@pytest.fixture(scope="module")
def drawn(finished, tmp_path_factory):
  """The folder of reference results with the run's figures in it."""
  out = tmp_path_factory.mktemp("reference")
  small = functools.partial(digits.likelihood, num_steps=2, num_terms=3)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(digits.FIGURES, "likelihood", small)
    arguments = ["vp_digits", "--workdir", str(finished), "--out", str(out / "vp_digits")]
    assert figures.main(arguments) == 0
  return out


def table(drawn, name, by):
  return {row[by]: row for row in plotting.read_csv(drawn / "vp_digits" / f"{name}.csv")}


def test_draws_everything(drawn):
  folder = drawn / "vp_digits"
  for name in digits.FIGURES:
    assert 3000 < (folder / f"{name}.png").stat().st_size < 300_000, name
    assert "figures.py vp_digits" in Image.open(folder / f"{name}.png").info["Description"]
    assert plotting.read_csv(folder / f"{name}.csv")


def test_memorised_digits_are_found_and_noise_is_not(drawn):
  """Training digits moved within their bins are at 0, test digits are not, and noise is far."""
  quantiles = table(drawn, "memorisation", "images")
  assert quantiles["heun-3"]["quantile_1"] == 0
  assert quantiles["test digits"]["quantile_0"] > 0.5
  assert quantiles["dpmpp_2m-2"]["quantile_0"] > quantiles["test digits"]["quantile_0.9"]


def test_classes_of_the_samples(drawn):
  rows = table(drawn, "samples", "samples")
  assert rows["heun-3"]["confident"] > 0.7 > 0.4 > rows["dpmpp_2m-2"]["confident"]
  for row in rows.values():
    assert sum(row[f"digit_{i}"] for i in range(10)) == pytest.approx(row["confident"])


def test_bits_of_a_gaussian_model(finished, tmp_path):
  """A network that is right for N(m, s^2 I): exact, probed and bound are that density's bits."""
  source = open_source("vp_digits", finished, tmp_path, 1)
  mean, std, target = -0.5, 0.7, source.experiment.target

  class Gaussian:
    def bind(self, params):
      def predict(x, level):
        at = level.like(x)
        noise = at.sigma * (x - at.alpha * mean) / ((at.alpha * std) ** 2 + at.sigma**2)
        return Prediction.of(x, level, "noise", noise=noise)

      return predict

  experiment = dataclasses.replace(source.experiment, parameterization=Gaussian())
  source = dataclasses.replace(source, experiment=experiment, params=jnp.zeros(()))
  exact, probed, bound, fit = digits.bits_of(source, 24, 100)
  x = target.dequantise(jax.random.split(source.key(20), 4)[0], target.splits["test"])
  density = scipy.stats.norm(mean, std).logpdf(np.asarray(x).reshape(450, 64)).sum(1)
  expected = -(density / 64 + np.log(1 / 8)) / np.log(2)
  np.testing.assert_allclose(exact.bits, expected, atol=2e-3)
  # J is a multiple of I, so that probes add no noise; twice the steps differ by the steps' error.
  np.testing.assert_allclose(probed.bits, exact.bits, atol=3e-3)
  # 100 terms, each at a noise of its own: 450 digits tell the mean to 0.01.
  assert abs(bound.bits.mean() - exact.bits.mean()) < 0.03
  assert fit.bits.mean() < exact.bits.mean() - 0.3


def test_a_sheet_of_nothing_says_so(tmp_path, capsys):
  arguments = ["digits", "--only", "processes", "--out", str(tmp_path / "digits")]
  assert figures.main(arguments) == 0
  assert "has the results of no config" in capsys.readouterr().out


def test_the_sheet_compares_what_is_there(drawn, capsys):
  for other in ("subvp_digits", "sbgm_digits_published"):
    shutil.copytree(drawn / "vp_digits", drawn / other, dirs_exist_ok=True)
  (drawn / "sbgm_digits_published" / "likelihood.csv").unlink()
  assert figures.main(["digits", "--out", str(drawn / "digits")]) == 0
  rows = plotting.read_csv(drawn / "digits" / "processes.csv")
  assert [row["config"] for row in rows] == ["sbgm_digits_published", "vp_digits", "subvp_digits"]
  assert np.isnan([row["bits_per_dim"] for row in rows]).tolist() == [True, False, False]
  assert rows[1]["frechet"] == 0.6
  sigmas = plotting.read_csv(drawn / "digits" / "sigma.csv")[-1]
  assert sigmas["s = 1.01"] == pytest.approx(np.sqrt((1.01**2 - 1) / 2 / np.log(1.01)), rel=1e-4)
  assert sigmas["s = 25"] == pytest.approx(np.sqrt((25**2 - 1) / 2 / np.log(25)), rel=1e-4)
