"""A pretrained model sampled from the command line, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import pretrained
from scorelab.errors import ConfigError
from scorelab.evaluation.pretrained import build, sheet
from tests.paths import TESTDATA

MODELS = TESTDATA / "pretrained"
CLASSES = MODELS / "class_cond_modern"
FAST = "--config=configs/pretrained.py:fast"


@pytest.mark.e2e
def test_a_model_is_sampled(forked, tmp_path):
  path, workdir = f"--config.pretrained.path={CLASSES}", f"--workdir={tmp_path}"
  result = forked.run([FAST, "--mode=eval", path, workdir])
  assert result.returncode == 0, result.stderr
  rows = json.loads((tmp_path / "evaluation.json").read_text())["rows"]
  assert [(r["sampler"], r["nfe"], r["options"]["eta"], r["metrics"]) for r in rows] == [
    ("ddim", 2, 0.0, {}),
    ("ddim", 2, 1.0, {}),
  ]
  lines = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
  assert [line["images"] for line in lines] == [4, 4]
  assert all(line["seconds_per_image"] > 0 for line in lines)
  with np.load(tmp_path / "samples.npz") as arrays:
    (flow, bayes) = (arrays[name] for name in arrays.files)
  assert flow.shape == bayes.shape == (4, 16, 16, 1)
  assert np.isfinite(flow).all()
  assert np.abs(flow - bayes).max() > 0.1
  for name in (tmp_path / "figures").iterdir():
    assert Image.open(name).size == (32, 32)
  assert "seconds an image" in result.stdout
  again = forked.run([FAST, "--mode=eval", path, workdir])
  assert again.returncode == 0
  assert "already done" in again.stdout


def refused(path=CLASSES, **changes):
  config = pretrained.get_config("fast")
  config.pretrained.path = str(path)
  for field, value in changes.items():
    section, name = field.split("__")
    config[section][name] = value
  with pytest.raises(ConfigError) as caught:
    build(config, "eval")
  assert len(str(caught.value).splitlines()) == 1
  return str(caught.value)


@pytest.mark.e2e
def test_what_is_refused():
  assert "pretrained.label = 10 must be from 0 to 9" in refused(pretrained__label=10)
  assert "pretrained.image_size = 18: block_out" in refused(pretrained__image_size=18)
  assert "is not a sampler" in refused(sampler__name="ddin")
  assert "1000" in refused(sampler__num_steps=1001)
  assert "no such file" in refused(MODELS)
  with pytest.raises(ConfigError, match="--mode=train: a pretrained model is sampled"):
    build(pretrained.get_config(), "train")


def test_sheets_are_pixel_for_pixel():
  images = np.linspace(-1, 1, 3 * 4 * 2 * 3).reshape(3, 4, 2, 3)
  pixels = np.asarray(sheet(images, (-1.0, 1.0)), float) / 127.5 - 1
  assert pixels.shape == (8, 4, 3)
  for image, (row, column) in zip(images, ((0, 0), (0, 1), (1, 0)), strict=True):
    tile = pixels[4 * row : 4 * row + 4, 2 * column : 2 * column + 2]
    np.testing.assert_allclose(tile, image, atol=1 / 255 + 1e-6)
  assert (pixels[4:, 2:] == 1).all()
