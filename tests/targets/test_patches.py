"""The patches: against the photographs they come from, and that splits share no pixel."""

import jax
import numpy as np
import pytest
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


def test_splits_share_no_pixel():
  """Of an image whose pixels say their column, each split has its own."""
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
  [({"side": 65}, "side = 65, must be from 1 to 64"), ({"stride": 0}, "stride = 0, must be at")],
)
def test_refusals(options, message):
  with pytest.raises(ValueError, match=message):
    patches(**options)
