"""The patches: against the photographs they come from, and that splits share no pixel."""

import types

import jax
import numpy as np
import pytest
import sklearn.datasets
from sklearn.datasets import load_sample_image

from scorelab.targets.patches import patches, windows

PATCHES = patches(side=16, stride=16)


def test_patches_are_cut_from_the_photographs():
  """Rounded to bytes they are pieces of the pictures, the first by row and column."""
  china = load_sample_image("china.jpg")
  train = np.round((np.asarray(PATCHES.splits["train"]) + 1) * 127.5).astype(int)
  np.testing.assert_array_equal(train[0], china[:16, :16])
  np.testing.assert_array_equal(train[1], china[:16, 16:32])
  per_row = 448 // 16  # 70 % of 640 pixels are for training
  np.testing.assert_array_equal(train[per_row], china[16:32, :16])
  assert len(train) == 2 * per_row * (427 // 16)
  assert np.abs(PATCHES.splits["train"]).max() <= 1


@pytest.mark.e2e
@pytest.mark.parametrize(("side", "stride"), [(8, 1), (16, 4), (32, 1), (64, 8)])
def test_splits_share_no_column(side, stride, monkeypatch):
  """Photographs whose pixels say their column: no column is in two splits, and with steps of one
  pixel all are in some."""
  columns = np.broadcast_to(np.arange(640)[None, :, None], (64, 640, 1))
  photograph = np.concatenate([columns // 256, columns % 256, columns % 256], -1).astype(np.uint8)
  bunch = types.SimpleNamespace(images=[photograph, photograph])
  monkeypatch.setattr(sklearn.datasets, "load_sample_images", lambda: bunch)
  seen = {}
  for name, x in patches(side=side, stride=stride).splits.items():
    pixels = np.round((np.asarray(x) + 1) * 127.5).astype(int)
    seen[name] = {*np.unique(256 * pixels[..., 0] + pixels[..., 1]).tolist()}
  train, validation, test = (seen[name] for name in ("train", "validation", "test"))
  assert train and validation and test
  assert not train & validation and not validation & test and not train & test
  if stride == 1:
    assert len(train) == 448 and len(test) == 128 and max(test) == 639


def test_windows_have_every_pixel():
  """An image whose pixels say their column."""
  columns = np.broadcast_to(np.arange(64)[None, :, None], (40, 64, 3)).astype(np.uint8)
  seen = windows(columns[:, 8:40], 16, 4)
  np.testing.assert_allclose(
    np.unique(np.round((seen + 1) * 127.5)), np.arange(8, 40), rtol=0, atol=1e-5
  )
  sizes = {name: len(x) for name, x in PATCHES.splits.items()}
  assert sizes == {"train": 1456, "validation": 2 * 7 * 1, "test": 2 * 13 * 4}


def test_dequantised_patches_round_to_the_same():
  noisy = patches(side=16, stride=16, dequantise=True)
  x = noisy.splits["test"]
  noise = np.asarray(noisy.dequantise(jax.random.key(0), x)) - x
  assert np.abs(noise).max() <= 1 / 255 + 1e-6
  np.testing.assert_allclose(noise.var() * 12 / noisy.bin_width**2, 1, atol=0.02)
  assert not hasattr(PATCHES, "dequantise")


@pytest.mark.parametrize(
  ("options", "message"),
  [({"side": 65}, "side = 65, must be from 1 to 64"), ({"stride": 0}, "stride = 0 must be at")],
)
def test_refusals(options, message):
  with pytest.raises(ValueError, match=message):
    patches(**options)
