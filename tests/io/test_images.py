"""Images from files: every good one once an epoch, in an order that goes on where it was left."""

import io
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import cond_cifar10, sbgm_digits
from scorelab import evaluation, training
from scorelab.data.image_files import Batches, Folder, ImageStream, decode, open_images
from scorelab.data.images import images
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_devices
from scorelab.runs.files import read_jsonl
from scorelab.runs.signals import Preempted, StopFlag
from scorelab.runs.workdir import open_workdir
from tests.stopping import StopAfter

pytest.importorskip("grain")
SIDE, DAMAGED = 8, 20


def jpeg(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "JPEG", quality=90)
  return file.getvalue()


def write_images(folder, number):
  """JPEGs of noise, all of them different, and DAMAGED that are cut short or no image at all."""
  rng = np.random.default_rng(0)
  bad = rng.choice(number, DAMAGED, replace=False)
  for i in range(number):
    data = jpeg(rng.integers(0, 256, (9 + i % 3, 10, 3), np.uint8))
    if i in bad:
      data = data[: len(data) // 2] if i % 2 else b"no image"
    place = folder / str(i % 7)
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{i:05d}.jpg").write_bytes(data)
  (folder / "notes.txt").write_text("no image, and not taken for one")


def write_parquet(folder, file):
  """The same images in the same order, as the library `datasets` keeps images."""
  pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
  files = Folder(str(folder))
  rows = [{"bytes": files[i], "path": files.names[i]} for i in range(len(files))]
  label = [class_in_the_path(name) for name in files.names]
  pq.write_table(pa.table({"image": rows, "label": label, "name": [f"{i}" for i in label]}), file)


def class_in_the_path(name):
  """Which of the seven folders of `write_images`."""
  return int(name.split("/")[-2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("photographs")
  write_images(path, 300)
  return path


def stream_of(files, **options):
  return ImageStream(files, np.arange(len(files)), SIDE, 3, seed=1, **options)


def numbers_of(batches, files):
  """Which images a batch has, told by their pixels."""
  decoded = [decode(files[i], SIDE, 3) for i in range(len(files))]
  known = {image.tobytes(): i for i, image in enumerate(decoded) if image is not None}
  assert len(known) == len(files) - DAMAGED
  return [known[image.tobytes()] for image in batches["x"].reshape(-1, SIDE, SIDE, 3)]


def check_epochs(files, batch_size, num_workers):
  """Two epochs as told, and the second half again from where the first one ended."""
  good = len(files) - DAMAGED
  assert good % batch_size == 0
  batches = Batches(stream_of(files), batch_size, num_workers)
  first = batches.take(good // batch_size)
  middle, damaged = batches.position, batches.damaged
  second = batches.take(good // batch_size)
  found = [numbers_of(epoch, files) for epoch in (first, second)]
  for epoch in found:
    assert len(set(epoch)) == len(epoch) == good
  assert found[0] != found[1]
  assert batches.damaged <= 2 * DAMAGED <= batches.damaged + DAMAGED  # the last may still follow
  resumed = Batches(stream_of(files, start=middle), batch_size, damaged=damaged)
  again = resumed.take(good // batch_size)
  jax.tree.map(np.testing.assert_array_equal, again, second)
  assert (resumed.position, resumed.damaged) == (batches.position, batches.damaged)


def test_every_good_image_once_an_epoch(folder):
  check_epochs(open_images(str(folder)), batch_size=40, num_workers=0)


@pytest.mark.e2e
def test_worker_processes_change_nothing(folder):
  """The order is that of the stream, however many decode it; read from Python's own loop."""
  files = open_images(str(folder))
  stream = stream_of(files)
  expected = [image for _, image in (stream[i] for i in range(60)) if image is not None]
  found = Batches(stream_of(files), 10, num_workers=2).take(4)["x"]
  np.testing.assert_array_equal(found.reshape(-1, SIDE, SIDE, 3), expected[:40])


@pytest.mark.e2e
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux for its open files")
def test_what_workers_send_is_let_go(folder):
  """Open files do not grow with the images of a take: a system allows some 1024."""
  batches = Batches(stream_of(open_images(str(folder))), 10, num_workers=1)
  batches.take(1)
  before = len(os.listdir("/proc/self/fd"))
  batches.take(30)
  assert len(os.listdir("/proc/self/fd")) < before + 100


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["folder", "numbers", "names"])
def test_labels_go_with_their_images(kind, folder, tmp_path, monkeypatch):
  """In every batch of a stream, damaged images left out, and in every split."""
  path, column = folder, "label" if kind == "numbers" else "name"
  if kind != "folder":
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "photographs.parquet"
    write_parquet(folder, path)
  files = open_images(str(path), label_column=column)
  assert files.class_names == tuple("0123456")
  known = [class_in_the_path(name) for name in Folder(str(folder)).names]
  batches = Batches(stream_of(files, labelled=True), 40).take(7)
  assert batches["label"].shape == (7, 40)
  found = [known[i] for i in numbers_of(batches, files)]
  np.testing.assert_array_equal(batches["label"].ravel(), found)

  target = images(path=str(path), side=SIDE, labelled=True, label_column=column, test_fraction=0.2)
  decoded = [decode(files[i], SIDE, 3) for i in range(len(files))]
  by_pixels = {
    (np.float32(2 / 255) * image.astype(np.float32) - 1).tobytes(): label
    for image, label in zip(decoded, known, strict=True)
    if image is not None
  }
  asked = np.arange(21) % 7
  for x, label in [
    *((target.splits[name], target.labels[name]) for name in ("train", "validation", "test")),
    target.sample_with_labels(jax.random.key(0), 20),
    (target.sample_of_class(jax.random.key(1), jnp.asarray(asked)), asked),
  ]:
    assert [by_pixels[image.tobytes()] for image in np.asarray(x)] == list(label)


def test_classes_that_no_image_has_are_classes(tmp_path, monkeypatch):
  """A data set's own list of names counts, as for a hidden class; a number out of it does not."""
  datasets = pytest.importorskip("datasets")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  pixel = {"bytes": jpeg(np.zeros((8, 8, 3), np.uint8)), "path": None}
  features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list("abc")))
  for labels in ([0, 1, 0], [0, -1, 1]):
    table = datasets.Dataset.from_dict({"image": [pixel] * 3, "label": labels}, features)
    table.to_parquet(str(tmp_path / f"{labels[1]}.parquet"))
  assert open_images(str(tmp_path / "1.parquet"), label_column="label").class_names == (
    "a",
    "b",
    "c",
  )
  with pytest.raises(ValueError, match="label_column = 'label' has -1, which is not a class"):
    open_images(str(tmp_path / "-1.parquet"), label_column="label")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_ten_thousand_images(kind, tmp_path):
  write_images(tmp_path / "photographs", 10_000)
  path = tmp_path / "photographs"
  if kind == "parquet":
    write_parquet(path, tmp_path / "photographs.parquet")
    path = tmp_path / "photographs.parquet"
  check_epochs(open_images(str(path)), batch_size=20, num_workers=2)


def test_parquet_is_the_folder(folder, tmp_path, monkeypatch):
  datasets = pytest.importorskip("datasets")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  write_parquet(folder, tmp_path / "photographs.parquet")
  files, table = open_images(str(folder)), open_images(str(tmp_path / "photographs.parquet"))
  assert len(table) == 300
  assert all(table[i] == files[i] for i in range(300))
  with pytest.raises(ValueError, match=r"column = 'img' is not in .* \(known: image, label"):
    open_images(str(tmp_path / "photographs.parquet"), column="img")


def test_processes_share_the_images_out():
  """Of 30 images two processes have 15 each, in every epoch, and all are there."""
  shares = [stream_of([b""] * 30, process=p, num_processes=2) for p in range(2)]
  for epoch in range(3):
    seen = [[share.place(epoch * 15 + i) for i in range(15)] for share in shares]
    assert sorted(seen[0] + seen[1]) == list(range(30))


def test_the_middle_square_is_taken():
  """A wide picture's middle, untouched where it has the size asked for; an even one stays even."""
  rng = np.random.default_rng(0)
  middle = rng.integers(0, 256, (8, 8, 3), np.uint8)
  wide = np.concatenate([np.zeros((8, 4, 3), np.uint8), middle, np.ones((8, 4, 3), np.uint8)], 1)
  file = io.BytesIO()
  Image.fromarray(wide).save(file, "PNG")
  np.testing.assert_array_equal(decode(file.getvalue(), 8, 3), middle)
  even = decode(jpeg(np.full((50, 33, 3), 90, np.uint8)), 8, 1)
  assert even.shape == (8, 8, 1)
  assert np.ptp(even) == 0
  assert abs(int(even[0, 0, 0]) - 90) <= 1  # JPEG's rounding


def test_nothing_readable_is_an_error_and_no_endless_loop():
  with pytest.raises(ValueError, match="none of 12 images can be read"):
    Batches(ImageStream(_Broken(12), np.arange(12), SIDE, 3, seed=0), 4).take(1)


class _Broken(list):
  """So many images, none of which can be read."""

  def __init__(self, number):
    super().__init__([b"no image"] * number)
    self.names = [str(i) for i in range(number)]


def test_the_target_deals_images_out_and_counts_damaged_ones(folder):
  target = images(path=str(folder), side=SIDE, validation_fraction=0.1, test_fraction=0.2)
  sizes = {name: len(x) for name, x in target.splits.items()}
  assert sum(sizes.values()) == 300 - target.damaged == 280
  assert abs(sizes["test"] - 56) <= 10
  seen = [np.asarray(x).reshape(len(x), -1) for x in target.splits.values()]
  assert len(np.unique(np.concatenate(seen), axis=0)) == 280  # no image is in two splits
  assert max(x.max() for x in seen) == 1
  assert min(x.min() for x in seen) == -1
  streamed = images(path=str(folder), side=SIDE, cache_gib=0.0, held_out=5)
  assert {len(x) for x in streamed.splits.values()} <= {3, 4, 5}
  assert streamed.stream.per_epoch == 270


def test_half_of_the_images_are_mirrored_and_bins_are_filled(folder):
  target = images(path=str(folder), side=SIDE, flip=True, dequantise=True)
  x = target.splits["train"][:200]
  shown = target.augment(jax.random.key(0), x)
  same = jnp.all(shown == x, axis=(1, 2, 3))
  mirrored = jnp.all(shown == x[:, :, ::-1], axis=(1, 2, 3))
  assert jnp.all(same | mirrored)
  assert 70 < int(mirrored.sum()) < 130  # four standard errors of 200 fair coins
  noise = target.dequantise(jax.random.key(1), x) - x
  np.testing.assert_allclose(jnp.abs(noise).max(), 1 / 255, rtol=1e-3)
  np.testing.assert_array_equal(target.scaled(jnp.array([0, 255], jnp.uint8)), [-1, 1])


def small_config(folder, **target):
  config = sbgm_digits.get_config("fast")
  config.target.update(name="images", path=str(folder), side=SIDE, num_workers=0, flip=True)
  config.target.update(**target)
  config.network.update(widths=(16,), norms=(False,))
  config.training.update(num_steps=12, log_every=2, checkpoint_every=4, batch_size=32)
  config.training.update(validation_repeats=1, patience=0)
  config.evaluation.metrics = ("energy_distance",)
  return config


def run(experiment, path, stop=None):
  workdir = open_workdir(path, experiment.config, {})
  return training.train(experiment, workdir, stop or StopFlag()), workdir


def resumes_to_the_bit(experiment, path):
  """A run stopped between two checkpoints has the bits of a straight one, which is given back."""
  straight, straight_dir = run(experiment, path / "straight")
  with pytest.raises(Preempted):
    run(experiment, path / "stopped", StopAfter(2))
  resumed, resumed_dir = run(experiment, path / "stopped")
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)
  assert straight_dir.metrics.read_text() == resumed_dir.metrics.read_text()
  return straight, straight_dir


@pytest.mark.e2e
def test_a_streamed_run_is_resumed_to_the_bit(folder, tmp_path):
  """Parameters, optimiser, the stream's place and all lines."""
  experiment = build(small_config(folder, cache_gib=0.0, held_out=16))
  straight, straight_dir = resumes_to_the_bit(experiment, tmp_path)
  read = np.asarray(straight.extra["read"])[0, :, 1]
  assert read[0] - read[1] == 12 * 32  # all that was read, less the damaged ones
  assert all(np.isfinite(line["loss"]) for line in read_jsonl(straight_dir.metrics))


def conditional_config(folder, **target):
  config = small_config(folder, cache_gib=0.0, held_out=16, labelled=True, **target)
  config.network.update(num_classes=7, label_dropout=0.25)
  config.sampler.update(name="ddim", num_steps=2, guidance="classifier_free", guidance_scale=2.0)
  config.evaluation.update(rows=(), labels="uniform", num_keys=1, num_samples=8, reference="test")
  return config


@pytest.mark.e2e
def test_a_labelled_run_is_resumed_and_sampled_by_class(folder, tmp_path):
  """To the bit, with guidance."""
  experiment = build(conditional_config(folder))
  straight, straight_dir = resumes_to_the_bit(experiment, tmp_path)
  evaluation.evaluate(experiment, straight.params, straight_dir, StopFlag())
  with np.load(straight_dir.samples) as arrays:
    assert set(arrays["labels"]) <= set(range(7))
    (sampled,) = set(arrays) - {"exact", "reference", "labels"}
    assert np.isfinite(arrays[sampled]).all()


def test_a_quarter_of_the_labels_is_dropped(folder):
  experiment = build(conditional_config(folder))
  read = {"x": np.zeros((4000, SIDE, SIDE, 3), np.uint8), "label": np.arange(4000) % 7}
  shown = np.asarray(experiment.read_batch(jax.random.key(0), read)["label"])
  dropped = shown == 7
  assert abs(dropped.mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
  np.testing.assert_array_equal(shown[~dropped], read["label"][~dropped])


def test_images_in_memory_are_drawn_from(folder):
  experiment = build(small_config(folder))
  batch = experiment.draw_batch(jax.random.key(0), experiment.data)["x"]
  known = {x.tobytes() for x in np.asarray(experiment.data["x"])}
  shown = np.round((np.asarray(batch) + 1) * 255 / 2) * np.float32(2 / 255) - 1  # off the noise
  unflipped = [x[:, ::-1] for x in shown.astype(np.float32)] + list(shown.astype(np.float32))
  near = {np.round((np.frombuffer(k, np.float32) + 1) * 127.5).tobytes() for k in known}
  found = [np.round((x.reshape(-1) + 1) * 127.5).astype(np.float32).tobytes() for x in unflipped]
  assert sum(f in near for f in found) == 32


BAD = {
  "path": (dict(path="nosuch"), "path = 'nosuch': there is no such file or folder"),
  "none": (dict(path=""), "must be a folder of images, Parquet, or 'hub:owner/name'"),
  "channels": (dict(channels=2), "channels = 2 must be 1 or 3"),
  "shares": (dict(validation_fraction=0.5, test_fraction=0.5), "below 1 together"),
}


def test_cifar_by_class_takes_any_labelled_images(folder):
  config = cond_cifar10.get_config("fast")
  config.target.update(path=str(folder), side=SIDE, num_workers=0, test_fraction=0.2)
  config.network.num_classes = 7
  experiment = build(config)
  batch = jax.eval_shape(experiment.draw_batch, jax.random.key(0), experiment.data)
  assert (batch["x"].shape, batch["label"].shape) == ((8, SIDE, SIDE, 3), (8,))
  assert "frechet:features=classifier" in experiment.evaluation.metrics


def test_classes_that_are_not_there_are_one_line(folder, tmp_path):
  config = conditional_config(folder)
  config.target.labelled = None
  with pytest.raises(ConfigError, match=r"num_classes = 7, .*has no classes: set target.labelled"):
    build(config)
  flat = tmp_path / "flat"
  flat.mkdir()
  (flat / "a.jpg").write_bytes(jpeg(np.zeros((8, 8, 3), np.uint8)))
  with pytest.raises(ConfigError, match=r"labelled = True, and a.jpg is in no folder of a class"):
    build(conditional_config(flat))


@pytest.mark.parametrize(("fields", "message"), BAD.values(), ids=BAD)
def test_mistakes_are_one_line(folder, fields, message):
  with pytest.raises(ConfigError) as error:
    build(small_config(folder, **fields))
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_all_images_at_once_need_memory(folder):
  config = small_config(folder, cache_gib=0.0)
  config.training.batch_size = 0
  with pytest.raises(ConfigError, match=r"raise target\.cache_gib"):
    check_devices(build(config))
