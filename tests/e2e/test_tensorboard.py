"""TensorBoard events of a run, read back from the file itself."""

import json
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from scorelab.errors import RefusedError
from scorelab.evaluation import tensorboard
from scorelab.runs.files import append_jsonl
from scorelab.runs.workdir import Workdir


def events(folder):
  """(step, tag, value, bytes of an image) of each summary in a folder's one file of records."""
  event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
  (file,) = folder.iterdir()
  data, found = file.read_bytes(), []
  while data:  # length, its checksum, the record, its checksum
    (length,) = struct.unpack("<Q", data[:8])
    event = event_pb2.Event.FromString(data[12 : 12 + length])
    found += [
      (event.step, v.tag, v.simple_value, v.image.encoded_image_string) for v in event.summary.value
    ]
    data = data[16 + length :]
  return found


def test_a_run_is_followed_and_a_resumed_one_has_no_step_twice(tmp_path):
  pytest.importorskip("tensorboardX")
  workdir = Workdir(tmp_path)
  append_jsonl(workdir.metrics, {"step": 10, "loss": 2.0, "band_loss": [1.5, None]})
  with tensorboard.Mirror(workdir):
    workdir.log({"step": 20, "loss": 1.0, "val_loss": 3.0})
  with tensorboard.Mirror(workdir):
    workdir.log({"step": 20, "loss": 1.0, "val_loss": 3.0})  # again after a resume
    workdir.log({"step": 30, "loss": 0.5})
    rows = [{"sampler": "heun", "num_steps": 16, "metrics": {"w:p=1": {"value": 0.25}}}]
    workdir.evaluation.write_text(json.dumps({"rows": rows}))
    workdir.figures.mkdir()
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(workdir.figures / "loss.png")
  *scalars, image = events(tmp_path / "tensorboard")
  assert [scalar[:3] for scalar in scalars] == [
    (10, "training/loss", 2.0),
    (10, "training/band_loss/0", 1.5),
    (20, "training/loss", 1.0),
    (20, "training/val_loss", 3.0),
    (30, "training/loss", 0.5),
    (30, "evaluation/w_p1/heun_16", 0.25),
  ]
  assert image[:2] == (30, "loss") and image[3].startswith(b"\x89PNG")


def test_off_it_leaves_nothing(tmp_path):
  with tensorboard.Mirror(Workdir(tmp_path), off=True):
    pass
  assert not list(tmp_path.iterdir())


def test_without_tensorboardx_it_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(RefusedError, match="tensorboardX"):
    tensorboard.Mirror(Workdir(tmp_path))
