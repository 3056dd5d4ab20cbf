"""Files of points: what is read, what is refused, and a run on one."""

import re

import jax
import numpy as np
import pytest

from configs import flow_moons
from scorelab import data, training
from scorelab.data.fingerprints import changes, of_points
from scorelab.errors import ConfigError
from scorelab.evaluation import likelihood as likelihood_evaluation
from scorelab.experiment.build import build
from scorelab.runs.signals import StopFlag
from scorelab.targets.data_set import split

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
  "columns of arrays": (
    "a.npy",
    POINTS,
    {"columns": ("x",)},
    "columns = .* not an option of a .npy",
  ),
  "array of text": (
    "a.csv",
    "1,2\n",
    {"array": "x"},
    "array = 'x' is not an option of a .csv",
  ),
  "nan": ("a.csv", "1,2\n3,nan\n", {}, r"1 of 4 numbers are not finite .* at \[1, 1\]"),
  "too large": ("a.csv", "1,2\n3,1e300\n", {}, "1 of 4 numbers are not finite in float32"),
  "not text": ("a.csv", b"\xff\xfe\x00\x01\n", {}, "is not a text file of numbers"),
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
  "torn": ("a.npz", b"PK\x03\x04 and nothing else", {}, "is not a .npz file of plain arrays"),
  "scalar": ("a.npy", np.array(1.0), {}, "holds no points"),
}


@pytest.mark.parametrize(("name", "content", "options", "line"), BAD.values(), ids=BAD)
def test_bad_files_are_one_line(write, name, content, options, line):
  path = write(name, content) if name else ""
  with pytest.raises(ValueError, match=line) as error:
    data.read_points(path, **options)
  assert str(error.value).startswith(f"path = {path!r}: ")
  assert "\n" not in str(error.value)


ROWS = "".join(f"{x!r},{y!r}\n" for x, y in POINTS[:6].tolist())
NUMBERED = "".join(f"{i},{line}" for i, line in enumerate(ROWS.splitlines(keepends=True)))
INDEX = "dropped: the first column, a row index without a name"
# What is read of POINTS[:6], and what is said of it.
WRITTEN = {
  "pandas without names": ("0,1\n" + ROWS, {}, "6 points of 0, 1"),
  "its columns": ("0,1\n" + ROWS, {"columns": ("0", "1")}, "6 points of 0, 1"),
  "its index": (",x,y\n" + NUMBERED, {}, f"6 points of x, y; {INDEX}"),
  "both": (",0,1\n" + NUMBERED, {}, f"6 points of 0, 1; {INDEX}"),
  "its index read again": ("Unnamed: 0,x,y\n" + NUMBERED, {}, f"6 points of x, y; {INDEX}"),
  "an index of filtered rows": (
    ",x,y\n" + re.sub(r"(?m)^(\d)", r"1\1", NUMBERED),
    {},
    f"6 points of x, y; {INDEX}",
  ),
  "index chosen away": ("id,x,y\n" + NUMBERED, {"columns": ("x", "y")}, "6 points of x, y"),
  "positions": (NUMBERED, {"columns": ("1", "2")}, "6 points of 2 numbers"),
  "a header by name": ("0,7\n" + ROWS, {"header": True}, "6 points of 0, 7"),
  "an empty column": (
    ROWS.replace("\n", ",\n"),
    {},
    "6 points of 2 numbers; dropped: column 3, which is empty",
  ),
  "comments": ("# a\n# b\n" + ROWS, {}, "6 points of 2 numbers; 2 lines of comments passed over"),
}


@pytest.mark.parametrize(("content", "options", "said"), WRITTEN.values(), ids=WRITTEN)
def test_tables_as_programs_write_them(write, content, options, said, capsys):
  path = write("a.csv", content)
  np.testing.assert_array_equal(data.read_points(path, **options), POINTS[:6])
  data.points(path, **options)
  assert capsys.readouterr().err == f"{path}: {said}\n"


def test_what_pandas_writes(write, tmp_path):
  pandas = pytest.importorskip("pandas")
  for names in (None, ["x", "y"]):
    for index in (False, True):
      pandas.DataFrame(POINTS, columns=names).to_csv(tmp_path / "a.csv", index=index)
      np.testing.assert_array_equal(data.read_points(str(tmp_path / "a.csv")), POINTS)


def test_a_column_that_numbers_the_rows_is_said(write, capsys):
  target = data.points(write("a.csv", "id,x,y\n" + NUMBERED))
  assert target.dim == 3
  assert (
    "column 'id' only numbers the rows: target.columns = ('x', 'y',)" in capsys.readouterr().err
  )


# What is refused, with the remedy in the same line.
REMEDIES = {
  "names or a point": ("0,1\n1,2\n3,4\n", {}, "line 1, '0,1', may be .* target.header = True or"),
  "one column": ("0\n0.5\n0.7\n", {}, "line 1, '0', may be names.* target.header"),
  "an empty first cell": (",2.5\n" + ROWS, {}, "line 1: '' .*column '0' has gaps in 1 of 7 lines"),
  "gaps": ("x,y\n1,2\n3,\n5,NA\n", {}, "line 3: '' .*column 'y' has gaps in 2 of 3 .*dropna"),
  "nan": ("x,y\n1,2\n3,nan\n", {}, "not finite in float32, the first at .*dropna"),
  "semicolons": ("x;y\n1.5;2\n", {}, r"line 2: '1.5;2' .* sep=';'\)\.to_csv"),
  "decimal commas": ("x;y\n1,5;2,5\n", {}, r"line 2 has 3 columns, .* sep=';', decimal=','\)"),
  "tabs": ("x\ty\n1\t2\n", {}, r"sep='\\t'\)"),
  "spaces": ("1 2\n3 4\n", {}, "separate columns by commas, not by spaces"),
  "labels": ("x,y,kind\n1,2,a\n3,4,b\n", {}, r"'kind' is text; .* target.columns = \('x', 'y'\)"),
  "text alone": ("a,b\nc,d\ne,f\n", {}, "no column of this table is all numbers"),
  "no name": ("x,\n1,2\n3,4\n", {}, "column 2 has no name: name it, or choose"),
  "no such position": ("5,6\n7,8\n", {"columns": ("2",)}, "without one they are '0' to '1'"),
  "header of arrays": (POINTS, {"header": True}, "header = True is not an option of a .npy file"),
}


@pytest.mark.parametrize(("content", "options", "line"), REMEDIES.values(), ids=REMEDIES)
def test_refusals_name_the_remedy(write, content, options, line):
  path = write("a.csv" if isinstance(content, str) else "a.npy", content)
  with pytest.raises(ValueError, match=line) as error:
    data.read_points(path, **options)
  assert "\n" not in str(error.value)


SECONDS = np.stack([1.7e12 + 1000.0 * np.arange(200), POINTS[:, 0]], 1)  # milliseconds since 1970


def test_numbers_that_float32_cannot_tell_apart(write):
  path = write("a.csv", as_csv(SECONDS, "time,x\n"))
  with pytest.raises(
    ValueError, match=r"'time' has 200 values about 1.7e\+12, and float32 tells 2"
  ):
    data.points(path)
  target = data.points(path, standardise=True)
  dealt = np.concatenate(list(target.splits.values()))
  assert len(np.unique(dealt[:, 0])) == 200
  # In float64 the standardised values give the milliseconds back to float32's 1e-7 of their range.
  location, spread = 1.7e12 + 1000 * 99.5, 1000 * 200 / 12**0.5
  np.testing.assert_allclose(np.asarray(target.location)[0], location, 1e-7)
  np.testing.assert_allclose(np.asarray(target.spread)[0], spread, 0.1)
  gaps = np.diff(np.sort(np.asarray(dealt[:, 0], float))) * np.asarray(target.spread)[0]
  np.testing.assert_allclose(gaps, 1000, rtol=1e-3)
  with pytest.raises(ValueError, match="coordinate 0 has 200 values"):
    split(SECONDS)
  split(POINTS * [1.5e4, 10] + [5e4, 35])  # an income and an age
  split(np.concatenate([SECONDS[:, 1:], np.full((200, 1), 1e9 + 0.3)], 1))  # a constant


class TestFingerprints:
  def test_are_of_the_numbers_alone(self, write):
    same = [
      {"path": write("a.csv", as_csv(POINTS))},
      {"path": write("b.tsv", as_csv(POINTS, "u\tv\n", "\t"))},
      {"path": write("c.npy", POINTS)},
      {"path": write("d.csv", "name" + as_csv(POINTS)), "columns": ("namex", "y")},
    ]
    found = [data.fingerprint({"name": "points", "standardise": None, **s}) for s in same]
    assert len({f["sha256"] for f in found}) == 1
    assert data.points(**same[0]).fingerprint == found[0]
    assert data.fingerprint({"name": "nine_modes", "path": None}) is None

  @pytest.mark.parametrize(
    ("changed", "said"),
    [
      (POINTS[:180], "points 200 -> 180"),
      (POINTS[::-1], "200 points as before, with other contents"),
      (np.concatenate([POINTS[:1] + 1e-12, POINTS[1:]]), "200 points as before, with other"),
      (POINTS + [0, 5], r"mean \[2.*, -0.9.*\] -> \[2.*, 4"),
      (POINTS.reshape(100, 4), r"points 200 -> 100, shape \[2\] -> \[4\]"),
    ],
  )
  def test_say_what_changed(self, changed, said):
    old, new = of_points(POINTS), of_points(changed)
    assert old["sha256"] != new["sha256"]
    assert re.search(said, changes(old, new))


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


@pytest.mark.e2e
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
    ("1,2\n", {"num_points": 3}, "target.num_points = 3 is not an option of points"),
    (as_csv(POINTS), {"num_train": 5}, "num_train = 5 must be 0: .* has its own training points"),
    ("1,2\n", {"test_fraction": 1.0}, re.escape("target.test_fraction = 1.0, must be in [0, 1)")),
  ],
)
def test_configs_are_refused_in_one_line(write, content, changes, line):
  config = config_of(write("a.csv", content), **changes)
  with pytest.raises(ConfigError, match=line) as error:
    build(config)
  assert "\n" not in str(error.value)
