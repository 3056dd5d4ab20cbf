"""Folders of images as people have them: how pictures look, what is passed over, what is said."""

import io

import numpy as np
import pytest
from PIL import Image

from configs import cond_cifar10
from scorelab.data.image_decoding import decode, why_unreadable
from scorelab.data.image_files import Folder, open_images
from scorelab.data.images import images
from scorelab.errors import ConfigError
from scorelab.experiment.build import build
from scorelab.experiment.compatibility import check_metrics

SIDE = 8
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
RGB = Image.fromarray(PIXELS)


def encoded(image, kind="PNG", **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


# What turns the stored pixels into the picture, by EXIF's orientation (CIPA DC-008, 4.6.4 A).
TURNS = {
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.swapaxes(0, 1),
  6: lambda a: np.rot90(a, -1),
  7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
  8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_cameras_orientation(kind, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
  stored = decode(encoded(RGB, kind, **options), SIDE, 3)
  found = decode(encoded(RGB, kind, exif=exif, **options), SIDE, 3)
  np.testing.assert_array_equal(found, TURNS[orientation](stored))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_orientation_leaves_the_picture():
  broken = encoded(RGB, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff no exif")
  np.testing.assert_array_equal(decode(broken, SIDE, 3), PIXELS)


def test_transparency_lies_on_white():
  """Pillow's convert('RGB') would show the colours under transparent pixels."""
  alpha = np.zeros((SIDE, SIDE), np.uint8)
  alpha[:, 4:] = 255
  alpha[:, 3] = 51  # a fifth
  rgba = Image.fromarray(np.dstack([PIXELS, alpha]))
  expected = PIXELS.astype(float).copy()
  expected[:, :3] = 255
  expected[:, 3] = 255 + (PIXELS[:, 3] - 255.0) * 51 / 255
  for kind in ("PNG", "TIFF", "WEBP"):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decode(encoded(rgba, kind, **options), SIDE, 3)
    np.testing.assert_allclose(found, expected, atol=1)
  grey = Image.fromarray(np.dstack([PIXELS[..., 0], alpha]))
  np.testing.assert_allclose(decode(encoded(grey), SIDE, 1)[..., 0], expected[..., 0], atol=1)
  opaque = RGB.convert("RGBA")
  np.testing.assert_array_equal(decode(encoded(opaque), SIDE, 3), PIXELS)


def test_a_transparent_colour_of_a_palette_or_of_rgb_lies_on_white():
  palette = RGB.convert("P")
  hidden = int(np.asarray(palette)[0, 0])
  where = np.asarray(palette) == hidden
  for content in (
    encoded(palette, transparency=hidden),
    encoded(palette, "GIF", transparency=hidden),
  ):
    found = decode(content, SIDE, 3)
    assert (found[where] == 255).all()
    np.testing.assert_array_equal(found[~where], np.asarray(palette.convert("RGB"))[~where])
  found = decode(encoded(RGB, transparency=tuple(int(v) for v in PIXELS[0, 0])), SIDE, 3)
  assert (found[0, 0] == 255).all()
  np.testing.assert_array_equal(found[1:], PIXELS[1:])


GREY = PIXELS[..., 0]


def test_deep_pixels():
  """16 bits and floats in [0, 1] are read; what has no known range is refused, not turned black."""
  for deep in (GREY.astype(np.uint16) * 257, GREY.astype(np.float32) / 255):
    for kind in ("TIFF",) if deep.dtype == np.float32 else ("TIFF", "PNG", "PPM"):
      found = decode(encoded(Image.fromarray(deep), kind), SIDE, 1)
      np.testing.assert_array_equal(found[..., 0], GREY)
  for bad, reason in (
    (GREY.astype(np.int32), "32-bit"),
    (GREY.astype(np.float32), r"float pixels outside"),
    (np.full((SIDE, SIDE), np.nan, np.float32), "float pixels outside"),
  ):
    content = encoded(Image.fromarray(bad), "TIFF")
    assert decode(content, SIDE, 1) is None
    assert reason in why_unreadable(content)
  assert why_unreadable(encoded(RGB)) == ""


@pytest.fixture
def folder(tmp_path):
  for i in range(40):
    place = tmp_path / ("cat", "dog")[i % 2]
    place.mkdir(exist_ok=True)
    image = Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8))
    kind, suffix = [("PNG", ".png"), ("TIFF", ".tif"), ("GIF", ".GIF"), ("JPEG", ".jfif")][
      i // 2 % 4
    ]
    (place / f"{i}{suffix}").write_bytes(encoded(image, kind))
  for tool in (".ipynb_checkpoints", "__MACOSX", ".git/objects"):
    (tmp_path / tool).mkdir(parents=True)
    (tmp_path / tool / "cat-checkpoint.png").write_bytes(encoded(RGB))
  (tmp_path / "cat" / "._0.png").write_bytes(b"AppleDouble")
  (tmp_path / "cat" / ".DS_Store").write_bytes(b"")
  (tmp_path / "dog" / "list.txt").write_text("")
  (tmp_path / "dog" / "photo.heic").write_bytes(b"")
  (tmp_path / "dog" / "deep.tiff").write_bytes(
    encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF")
  )
  return tmp_path


def test_one_line_says_what_was_read(folder, capsys):
  target = images(str(folder), SIDE, labelled=True, validation_fraction=0.1, test_fraction=0.1)
  assert target.class_names == ("cat", "dog")
  assert capsys.readouterr().err == (
    f"{folder}: 41 images in 2 classes (cat 20, dog 21); passed over: 1 .heic, 1 .txt, 1 folder "
    ".git, 1 folder .ipynb_checkpoints, 1 folder __MACOSX, 2 hidden files; left out: 1 (has 32-bit "
    "pixels of an unknown range: convert it to 8 or 16 bits)\n"
  )
  assert sum(len(x) for x in target.splits.values()) == 40


def test_a_hidden_folder_above_is_no_matter(folder):
  hidden = folder / ".cache" / "cats"
  hidden.mkdir(parents=True)
  (hidden / "a.png").write_bytes(encoded(RGB))
  assert len(open_images(str(hidden))) == 1
  assert len(Folder(str(folder))) == 41


def test_a_folder_without_images_says_what_is_there(tmp_path):
  for i in range(3):
    (tmp_path / f"{i}.heic").write_bytes(b"")
  with pytest.raises(ValueError, match=r"holds no images .*; found: 3 \.heic"):
    images(str(tmp_path))


def test_another_number_of_classes_names_them(folder):
  config = cond_cifar10.get_config("fast")
  config.target.update(path=str(folder), side=SIDE, num_workers=0)
  with pytest.raises(ConfigError, match=r"num_classes = 10, .* has 2 classes \(cat, dog\)"):
    build(config)


@pytest.mark.e2e
def test_too_few_images_for_a_metric_in_features_are_refused_before_training(folder):
  """41 images leave 3 to test against, which is no more than the nearest neighbours asked for."""
  config = cond_cifar10.get_config("fast")
  config.target.update(path=str(folder), side=SIDE, num_workers=0, labelled=True)
  config.network.num_classes = 2
  config.evaluation.update(metrics=("precision:features=classifier",), reference="test")
  with pytest.raises(
    ConfigError, match=r"num_neighbours = 3 of .*test split has 3\): raise target"
  ):
    check_metrics(build(config))
  config.target.test_fraction = 0.5
  check_metrics(build(config))
