"""Files of points: what is read, what is refused, and a run on one."""

import re

import jax
import numpy as np
import pytest

from configs import flow_moons
from scorelab import data, likelihood_evaluation, training
from scorelab.experiment import build
from scorelab.options import ConfigError
from scorelab.run import StopFlag
from scorelab.targets.data_set import split

pytestmark = pytest.mark.usefixtures("quick_compilation")

POINTS = np.random.default_rng(0).normal([3.0, -1.0], [2.0, 0.5], (200, 2))


@pytest.fixture
def write(tmp_path):
  def write(name, content):
    path = tmp_path / name
    if isinstance(content, str):
      path.write_text(content)
    elif isinstance(content, bytes):
      path.write_bytes(content)
    elif isinstance(content, dict):
      np.savez(path, **content)
    else:
      np.save(path, content)
    return str(path)

  return write


def as_csv(points, header="x,y\n", delimiter=","):
  return header + "".join(delimiter.join(map(repr, row)) + "\n" for row in points.tolist())


@pytest.mark.parametrize(
  ("name", "content", "options"),
  [
    ("a.csv", as_csv(POINTS), {}),
    ("a.csv", "# a comment\n\n" + as_csv(POINTS, header=""), {}),
    ("a.csv", "\ufeff" + as_csv(POINTS, header="u, v\n"), {}),
    ("a.tsv", as_csv(POINTS[:, ::-1], "y\tx\n", "\t"), {"columns": ("x", "y")}),
    (
      "a.csv",
      "set,x,y\n" + "".join(f"dino,{x!r},{y!r}\n" for x, y in POINTS.tolist()),
      {"columns": ("x", "y")},
    ),
    ("a.npy", POINTS, {}),
    ("a.npz", {"only": POINTS}, {}),
    ("a.npz", {"one": POINTS[:1], "two": POINTS}, {"array": "two"}),
  ],
)
def test_points_are_read(write, name, content, options):
  np.testing.assert_array_equal(data.read_points(write(name, content), **options), POINTS)


def test_points_of_other_shapes(write):
  assert data.read_points(write("line.npy", np.arange(5))).shape == (5, 1)
  assert data.read_points(write("one.csv", "1\n2\n3\n")).shape == (3, 1)
  images = np.zeros((3, 4, 4, 1), np.uint8)
  assert data.read_points(write("images.npy", images)).shape == images.shape


BAD = {
  "no path": (None, None, {}, "must name a file"),
  "kind": ("a.txt", "1 2\n", {}, "must end in one of .csv, .npy, .npz, .tsv"),
  "empty": ("a.csv", "", {}, "holds no points"),
  "header alone": ("a.csv", "x,y\n", {}, "holds no points"),
  "word": ("a.csv", "x,y\n1,2\n3,four\n", {}, "line 3: 'four' is not a number"),
  "ragged": ("a.csv", "x,y\n1,2\n3\n", {}, "line 3 has 1 columns, not 2"),
  "ragged header": ("a.csv", "x,y,z\n1,2\n", {}, "line 2 has 2 columns, not 3"),
  "column": (
    "a.csv",
    "width,height\n1,2\n",
    {"columns": ("wdth",)},
    "column 'wdth' is not in it; did you mean 'width'?",
  ),
  "columns without names": ("a.csv", "1,2\n", {"columns": ("x",)}, "need a first line of names"),
  "columns of arrays": ("a.npy", POINTS, {"columns": ("x",)}, "columns = .* no option of a .npy"),
  "array of text": ("a.csv", "1,2\n", {"array": "x"}, "array = 'x' is no option of a .csv file"),
  "nan": ("a.csv", "1,2\n3,nan\n", {}, r"1 of 4 numbers are not finite .* at \[1, 1\]"),
  "too large": ("a.csv", "1,2\n3,1e300\n", {}, "1 of 4 numbers are not finite in float32"),
  "not text": ("a.csv", b"\xff\xfe\x00\x01\n", {}, "is no text of numbers"),
  "many arrays": ("a.npz", {"a": POINTS, "b": POINTS}, {}, r"2 arrays \(a, b\): give target.array"),
  "no array": ("a.npz", {}, {}, "holds 0 arrays"),
  "array": (
    "a.npz",
    {"points": POINTS},
    {"array": "point"},
    "array = 'point' is not in it; did you mean 'points'",
  ),
  "pickle": ("a.npz", {"a": np.array([{}, []], object)}, {}, "holds pickled objects"),
  "pickled array": ("a.npy", np.array([{}], object), {}, "it holds pickled objects"),
  "text array": ("a.npz", {"a": np.array(["x"])}, {}, "holds <U1, not real numbers"),
  "torn": ("a.npz", b"PK\x03\x04 and nothing else", {}, "is no .npz file of plain arrays"),
  "scalar": ("a.npy", np.array(1.0), {}, "holds no points"),
}


@pytest.mark.parametrize(("name", "content", "options", "line"), BAD.values(), ids=BAD)
def test_bad_files_are_one_line(write, name, content, options, line):
  path = write(name, content) if name else ""
  with pytest.raises(ValueError, match=line) as error:
    data.read_points(path, **options)
  assert str(error.value).startswith(f"path = {path!r}: ")
  assert "\n" not in str(error.value)


class TestSplits:
  def test_are_all_points_once(self):
    target = split(POINTS, validation_fraction=0.1, test_fraction=0.25)
    assert [len(points) for points in target.splits.values()] == [130, 20, 50]
    dealt = np.concatenate(list(target.splits.values()))
    np.testing.assert_allclose(np.sort(dealt, 0), np.sort(POINTS.astype(np.float32), 0))

  def test_follow_the_seed(self):
    first, same, other = (split(POINTS, split_seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train, same.train)
    assert (np.asarray(first.test) != np.asarray(other.test)).any()
    assert (np.asarray(first.train) != POINTS[: len(first.train)]).any()  # in an order of their own

  def test_standardised_by_the_training_points(self):
    target, plain = split(POINTS, standardise=True), split(POINTS)
    np.testing.assert_allclose(np.mean(target.train, 0), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(target.train, 0), 1, 1e-5)
    assert abs(np.std(target.test) - 1) > 1e-4
    assert target.scale == pytest.approx(1) and plain.scale == pytest.approx(1.46, abs=0.15)
    for name, points in target.splits.items():
      own = target.location + target.spread * points
      np.testing.assert_allclose(own, plain.splits[name], 1e-5, 1e-5)

  def test_draws_and_bounds_are_of_the_training_points(self):
    target = split(POINTS)
    draws = np.asarray(jax.jit(target.sample, static_argnums=1)(jax.random.key(0), 500))
    low, high = target.bounds
    assert (low < draws).all() and (draws < high).all()
    assert {tuple(x) for x in draws.tolist()} <= {tuple(x) for x in target.train.tolist()}
    assert len(np.unique(draws, axis=0)) > 100
    assert target.dim == 2 and target.event_shape == (2,)

  def test_may_be_left_out(self):
    assert list(split(POINTS, test_fraction=0.0).splits) == ["train", "validation"]

  @pytest.mark.parametrize(
    ("points", "options", "line"),
    [
      (POINTS[:3], {}, "3 points are too few: with 1 to validate and 1 to test 1 are left"),
      (POINTS, {"test_fraction": 0.9}, "below 1 together"),
      (POINTS * [1, 0], {"standardise": True}, "a coordinate is the same in all training points"),
    ],
  )
  def test_refusals(self, points, options, line):
    with pytest.raises(ValueError, match=line):
      split(points, **options)


def config_of(file, **changes):
  config = flow_moons.get_config("fast")
  config.network.update(width=8, depth=1, num_features=4)
  config.target.update({"name": "points", "path": file} | changes)
  return config


def test_a_run_on_a_file(write):
  """Trained, validated and tested on its own points, whose likelihood is measured."""
  config = config_of(write("a.csv", as_csv(POINTS)), standardise=True)
  config.training.num_steps = 20
  config.evaluation.reference = "test"
  config.evaluation.update(likelihood_points=30, likelihood_num_steps=2, likelihood_bound_steps=3)
  experiment = build(config)
  np.testing.assert_array_equal(experiment.data["x"], experiment.target.train)
  np.testing.assert_array_equal(experiment.validation["x"], experiment.target.validation)
  state, metrics = training.make_chunk(experiment)(
    training.init_state(experiment), experiment.data, length=3
  )
  assert np.isfinite(metrics["loss"]).all()
  measured = likelihood_evaluation.measure_likelihood(
    experiment, state.params, experiment.evaluation.likelihood, StopFlag()
  )
  assert (measured["points"], measured["source"]) == (30, "test")
  assert measured["truth"] is measured["kl"] is measured["bound_kl"] is None
  # What is nearly N(0, I), by a network that has hardly learned: its flow is a multiple of x.
  assert -4 < measured["flow"] < -2


@pytest.mark.parametrize(
  ("content", "changes", "line"),
  [
    ("1,2\n3,4\n", {}, "target: path = .*: 2 points are too few"),
    ("1,2\n", {"path": "none.csv"}, "target: path = 'none.csv': there is no such file"),
    ("1,2\n", {"num_points": 3}, "target.num_points = 3 is no option of points"),
    (as_csv(POINTS), {"num_train": 5}, "num_train = 5 must be 0: .* has its own training points"),
    ("1,2\n", {"test_fraction": 1.0}, re.escape("target.test_fraction = 1.0, must be in [0, 1)")),
  ],
)
def test_configs_are_refused_in_one_line(write, content, changes, line):
  config = config_of(write("a.csv", content), **changes)
  with pytest.raises(ConfigError, match=line) as error:
    build(config)
  assert "\n" not in str(error.value)
