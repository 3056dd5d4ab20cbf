"""Points that an experiment holds out: no training, validation or reference point is another's."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs import base
from scorelab import evaluation
from scorelab.evaluation import likelihood as likelihood_evaluation
from scorelab.experiment.build import build
from scorelab.experiment.keys import Stream
from scorelab.predictions import Exact
from scorelab.runs.signals import StopFlag
from scorelab.typing import Samples

BROUGHT = {
  "csv": dict(name="points", validation_fraction=0.2, test_fraction=0.3),
  "digits": dict(name="digits"),
  "dequantised digits": dict(name="digits", dequantise=True),
  "images": dict(name="images", side=8, validation_fraction=0.2, test_fraction=0.3, num_workers=0),
  "patches": dict(name="patches", stride=32, side=32),
}
DRAWN = {
  "fresh": dict(name="nine_modes"),
  "fixed": dict(name="nine_modes", num_train=150),
  "moons": dict(name="moons", num_train=150),
}


def settings(name, folder):
  """The target's fields, with files for those that want some: random numbers, so all differ."""
  rng = np.random.default_rng(0)
  if name == "csv":
    np.savetxt(folder / "points.csv", rng.normal(size=(200, 2)), delimiter=",")
    return BROUGHT[name] | {"path": str(folder / "points.csv")}
  if name == "images":
    from PIL import Image

    for i in range(60):
      Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    return BROUGHT[name] | {"path": str(folder)}
  return (BROUGHT | DRAWN)[name]


@pytest.fixture(scope="module")
def experiment_of(tmp_path_factory):
  """Experiments by the name of their target and fields of their evaluation, each built once."""
  return functools.cache(
    lambda name, **f: build_experiment(name, tmp_path_factory.mktemp("f"), **f)
  )


def build_experiment(name, folder, **evaluation_fields):
  config = base.variant(base.get_config(), "fast")
  config.target.update(settings(name, folder))
  config.evaluation.metrics = ("energy_distance",)
  config.evaluation.update(num_keys=2, num_samples=20, num_reference=30, rows=())
  config.evaluation.update(evaluation_fields)
  experiment = build(config)

  def run(key, predict, x):
    del key, predict
    return Samples(x, x[None], 1)

  row = dataclasses.replace(experiment.evaluation.rows[0], run=run)
  protocol = dataclasses.replace(experiment.evaluation, rows=(row,), comparable=False)
  return dataclasses.replace(experiment, evaluation=protocol, parameterization=Exact(None))


def points(x, name):
  """Points as a set; of dequantised ones, the lattice points that they were."""
  x = np.asarray(x, float).reshape(len(x), -1)
  x = np.round((x + 1) * 8) if "dequantised" in name else np.round(x, 5)
  return {tuple(row) for row in x}


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*BROUGHT, *DRAWN])
def test_no_held_out_point_was_trained_on(name, experiment_of):
  """Validation and likelihood see points of their own, in every target that has splits."""
  experiment = experiment_of(name)
  key = experiment.key(Stream.LIKELIHOOD, 0)
  found, source = likelihood_evaluation.held_out(experiment, key, 40)
  assert source == ("test" if name in BROUGHT else "fresh") and len(found) <= 40
  train = points(experiment.data["x"], name) if experiment.data else set()
  validation, held_out = points(experiment.validation["x"], name), points(found, name)
  assert bool(train) == (name != "fresh") and validation and held_out
  assert not train & validation and not train & held_out and not validation & held_out


@pytest.mark.e2e
@pytest.mark.parametrize("name", BROUGHT)
def test_the_reference_is_the_test_set_and_the_floor_has_training_points(name, experiment_of):
  """Neither has points of the other or of validation, and no key deals them out like another."""
  experiment = experiment_of(name, reference="test")
  sets = evaluation.draw_sets(experiment, {}, StopFlag())
  splits = {key: points(x, name) for key, x in experiment.target.splits.items()}
  training = points(experiment.data["x"], name)
  for reference, exact in zip(sets["reference"], sets["exact"], strict=True):
    assert points(reference, name) == splits["test"] and len(exact) <= 20
    assert points(exact, name) <= training
    assert not points(exact, name) & (splits["test"] | splits["validation"])
    assert len(points(exact, name)) == len(exact)  # without replacement
  assert not np.array_equal(sets["exact"][0], sets["exact"][1])


@pytest.mark.e2e
@pytest.mark.parametrize("name", DRAWN)
def test_fresh_sets_have_no_point_in_common(name, experiment_of):
  """A law with a density draws no point twice: one in two sets would come of a shared key."""
  experiment = experiment_of(name)
  sets = evaluation.draw_sets(experiment, {}, StopFlag())
  drawn = [*sets["reference"], *sets["exact"], experiment.validation["x"]]
  drawn += [experiment.data["x"]] if experiment.data else []
  drawn += [likelihood_evaluation.held_out(experiment, experiment.key(Stream.LIKELIHOOD, 0), 40)[0]]
  key = jax.random.key(experiment.config["seed"])
  drawn += [experiment.target.sample(key, 20)]  # the root key itself is for nothing
  found = [points(x, name) for x in drawn]
  assert len(set.union(*found)) == sum(map(len, found)) == sum(map(len, drawn))
