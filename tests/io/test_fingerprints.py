"""The data of a run: told apart by their contents, checked on resume, not needed for an export."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from configs import ddpm_circles_published, flow_moons, ncsn_gmm_published
from scorelab import data, training
from scorelab.cli import export
from scorelab.data import fingerprints
from scorelab.data.fingerprints import changes, of_images
from scorelab.data.image_files import Folder
from scorelab.errors import RefusedError
from scorelab.experiment.build import build
from scorelab.pretrained import load_model
from scorelab.runs import workdir as run
from scorelab.runs.signals import StopFlag
from scorelab.sweep import plan
from tests.paths import ROOT

POINTS = np.random.default_rng(0).normal(size=(60, 2))


def config_of(path, **changed):
  config = flow_moons.get_config("fast")
  config.network.update(width=4, depth=1, num_features=2)
  config.training.update(num_steps=2, log_every=1, checkpoint_every=2)
  config.target.update(name="points", path=str(path), **changed)
  return config


@pytest.fixture
def file(tmp_path):
  np.save(tmp_path / "a.npy", POINTS)
  return tmp_path / "a.npy"


def recorded(path, **changed):
  """The config of a run as main.py has it, without a network."""
  config = json.loads(config_of(path, **changed).to_json())
  return config | {"data": data.fingerprint(config["target"])}


class TestRunsOnFiles:
  def test_are_told_apart_by_contents_and_not_by_path(self, file, tmp_path):
    first = recorded(file)
    assert run.run_id(first) == run.run_id(recorded(shutil.copy(file, tmp_path / "b.npy")))
    np.save(tmp_path / "c.npy", POINTS[:50])
    assert run.run_id(first) != run.run_id(recorded(tmp_path / "c.npy"))
    assert run.run_id(first) != run.run_id(recorded(file, split_seed=1))

  def test_refuse_other_data_by_what_changed(self, file, tmp_path):
    run.open_workdir(tmp_path / "run", recorded(file), {}).done.touch()
    assert run.is_done(tmp_path / "run", recorded(file))
    np.save(file, POINTS[:50])
    assert not run.is_done(tmp_path / "run", recorded(file))
    with pytest.raises(RefusedError, match=r"run on other data \(points 60 -> 50, mean .*\): give"):
      run.open_workdir(tmp_path / "run", recorded(file), {})
    with pytest.raises(RefusedError, match=r"target\.split_seed = None, not 1"):  # the nearer cause
      run.open_workdir(tmp_path / "run", recorded(file, split_seed=1), {})

  def test_take_a_new_path(self, file, tmp_path):
    run.open_workdir(tmp_path / "run", recorded(file), {}).done.touch()
    moved = recorded(shutil.move(file, tmp_path / "moved.npy"))
    assert run.is_done(tmp_path / "run", moved)
    more = moved | {"evaluation": moved["evaluation"] | {"num_keys": 7}}
    assert not run.open_workdir(tmp_path / "run", more, {}).done.exists()

  def test_that_are_finished_are_found_without_their_data(self, file, tmp_path):
    config, root = recorded(file), tmp_path / "runs"
    asked = run.without_data(config)
    workdir = run.open_workdir(root / "a", config, {})
    assert run.find_done([root / "a", root / "none"], asked) is None  # not finished
    workdir.done.touch()
    assert run.find_done([root / "none", root / "a"], asked) == root / "a"
    assert run.find_done([root / "a"], asked | {"seed": 1}) is None
    run.open_workdir(root / "b", asked, {}).done.touch()  # of a run that reads no files
    assert run.find_done([root / "b"], asked) is None

  def test_from_before_there_were_fingerprints_are_read(self, file, tmp_path, capsys):
    config = recorded(file)
    older = run.without_data(config)
    root = tmp_path / "runs"
    run.open_workdir(root / run.run_id(older), older, {}).done.touch()
    path = run.find(root, config)
    assert path == root / run.run_id(older)
    assert run.is_done(path, config)
    run.open_workdir(path, config, {})
    assert "from before data had fingerprints" in capsys.readouterr().err
    with pytest.raises(RefusedError, match=r"target\.path = "):
      run.open_workdir(path, recorded(shutil.copy(file, tmp_path / "b.npy")), {})

  def test_name_the_same_run_on_other_data(self, file, tmp_path):
    config = recorded(file)
    path = run.find(tmp_path, config)
    assert path == tmp_path / run.run_id(config)
    run.open_workdir(path, config, {})
    np.save(file, POINTS[:50])
    assert run.find(tmp_path, recorded(file)) != path
    said = run.on_other_data(tmp_path, recorded(file))
    assert said.startswith(f"{path} is the same run on other data: points 60 -> 50")
    assert not run.on_other_data(tmp_path, recorded(file, split_seed=1))
    assert not run.on_other_data(tmp_path, {"seed": 0})


@pytest.mark.e2e
def test_a_finished_run_shows_its_table_when_its_data_are_gone(file, forked, tmp_path):
  command = [ROOT / "main.py", f"--config={ROOT}/configs/flow_moons.py:fast"]
  fields = {"target.name": "points", "target.path": file, "training.num_steps": 2}
  fields |= {"training.log_every": 1, "training.checkpoint_every": 2, "network.width": 4}
  fields |= {"evaluation.metrics": "('energy_distance',)", "evaluation.rows": "()"}
  command += [f"--config.{name}={value}" for name, value in fields.items()]

  def main(*more):
    return forked.python([*command, *more], cwd=tmp_path)

  first = main()
  assert first.returncode == 0, first.stderr
  file.unlink()
  for workdir in ([], [f"--workdir={next(tmp_path.glob('results/*/*'))}"]):
    again = main(*workdir)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[:-1] == first.stdout.splitlines()[:-1]
    assert again.stdout.endswith(": already done\n") and "there is no such file" in again.stderr
  refused = main("--config.seed=1")
  assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1


def test_a_sweep_finds_the_runs_of_main_by_their_data(file, tmp_path):
  common = ["--config.target.name=points", f"--config.target.path={file}"]

  def folders():
    rows = plan.make_rows("configs/flow_moons.py", common, [{}, {"seed": "1"}], tmp_path)
    return [row.task.workdir.name for row in rows]

  config = flow_moons.get_config()
  config.target.update(dict.fromkeys(config.target.keys()))
  config.target.update(name="points", path=str(file), num_train=0)
  whole = json.loads(config.to_json())
  first = folders()
  assert first[0] == run.run_id(whole | {"data": data.fingerprint(whole["target"])})
  np.save(file, POINTS[:50])
  assert not set(first) & set(folders())
  file.unlink()
  with pytest.raises(plan.SweepError, match=r"target: path = .*: there is no such file"):
    folders()


@pytest.mark.e2e
def test_configs_without_files_have_the_ids_that_they_had():
  """Those of scorelab before data had fingerprints."""
  for module, known in ((ncsn_gmm_published, "575d2e2f4f"), (ddpm_circles_published, "80557f0cc3")):
    config = build(module.get_config()).config
    assert "data" not in config
    assert run.run_id(config) == known


@pytest.mark.e2e
def test_an_export_needs_no_data(file, tmp_path, capsys):
  experiment = build(config_of(file))
  assert (
    experiment.config["data"]["sha256"] == data.fingerprint(experiment.config["target"])["sha256"]
  )
  workdir = run.open_workdir(tmp_path / "run", experiment.config, {})
  state = training.train(experiment, workdir, StopFlag())
  file.unlink()
  arguments = ["--workdir", str(workdir.path), "--to", str(tmp_path / "out"), "--format=plain"]
  assert export.main(arguments) == 0
  _, params, shape, _ = load_model(tmp_path / "out")
  assert shape == (2,)
  expected = training.evaluated_params(state, experiment.evaluation.ema)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


class TestFolders:
  @pytest.fixture
  def folder(self, tmp_path):
    for i in range(6):
      place = tmp_path / "images" / f"{i % 2}"
      place.mkdir(parents=True, exist_ok=True)
      (place / f"{i}.png").write_bytes(bytes([i]) * 100)
    return tmp_path / "images"

  def test_where_they_are_does_not_matter(self, folder, tmp_path):
    copy = pathlib.Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "notes.txt").write_text("")
    (copy / ".cache").mkdir()
    assert of_images(Folder(str(folder))) == of_images(Folder(str(copy)))

  @pytest.mark.parametrize("labelled", [False, True])
  def test_every_change_is_noticed(self, folder, labelled):
    def now():
      return of_images(Folder(str(folder), labelled))

    found = [now()]
    (folder / "0" / "0.png").write_bytes(b"\1" + bytes(99))
    found.append(now())
    assert changes(found[0], found[1]) == "6 images as before, with other contents"
    (folder / "0" / "0.png").rename(folder / "1" / "0.png")
    found.append(now())
    (folder / "1" / "0.png").rename(folder / "1" / "a.png")
    found.append(now())
    (folder / "1" / "a.png").unlink()
    found.append(now())
    assert "images 6 -> 5" in changes(found[3], found[4])
    assert len({f["sha256"] for f in found}) == len(found)

  def test_large_ones_are_read_in_part(self, folder, monkeypatch):
    """Every second of six files of 100 bytes, where at most 300 are read; all names and sizes."""
    monkeypatch.setattr("scorelab.data.fingerprints._MOST_BYTES", 300)
    read = []
    plain = fingerprints._read
    monkeypatch.setattr(
      fingerprints, "_read", lambda p: read.append(pathlib.Path(p).name) or plain(p)
    )
    before = of_images(Folder(str(folder)))
    assert sorted(read) == ["0.png", "3.png", "4.png"]  # of 0/0 0/2 0/4 1/1 1/3 1/5: 0, 4 and 3
    (folder / "0" / "2.png").write_bytes(bytes(101))
    assert of_images(Folder(str(folder)))["sha256"] != before["sha256"]

  def test_a_data_set_without_files_is_told_by_its_rows_and_labels(self, monkeypatch):
    """As of the hub: every k-th image, and all labels."""
    monkeypatch.setattr("scorelab.data.fingerprints._MOST_IMAGES", 3)

    def told(rows, labels):
      return of_images(Rows(rows, np.array(labels), ("cat", "dog")))["sha256"]

    rows = [bytes([i]) for i in range(6)]
    changed = {told(rows, [0, 1] * 3), told(rows, [1, 0] * 3), told([b"x", *rows[1:]], [0, 1] * 3)}
    assert len(changed | {told([*rows, b"x"], [0, 1] * 3 + [0])}) == 4
    assert told([rows[0], b"x", *rows[2:]], [0, 1] * 3) in changed  # which is not among the third


class Rows(list):
  """Encoded images that are in no files, as `image_files.Table` gives those of the hub."""

  def __init__(self, rows, labels, class_names):
    super().__init__(rows)
    self.labels, self.class_names = labels, class_names

  def files(self):
    return []
