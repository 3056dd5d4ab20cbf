"""Weights in every layout that the hub has, in directories and in a hub's local cache."""

import importlib.util
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from scorelab.pretrained import PretrainedError, load_pipeline, pickled
from tests.io.pretrained.test_damage import SCHEDULER, TORCH, UNET

STEM = "diffusion_pytorch_model"
AVERAGING = {"decay": 0.9999, "inv_gamma": 1.0, "optimization_step": 7, "use_ema_warmup": True}


def weights(value):
  """All of one value, so that one number tells which file was read."""
  arrays = {}
  for name, shape in TORCH.items():
    arrays[f"{name}.weight"] = np.full(shape, value, np.float32)
    arrays[f"{name}.bias"] = np.full(shape[:1], value, np.float32)
  return arrays


def safetensors(file, value, dtype=np.float32):
  save_file({k: v.astype(dtype) for k, v in weights(value).items()}, file)


def shards(folder, value, index, suffix, middle="", save=save_file):
  arrays = weights(value)
  names, places = sorted(arrays), {}
  for i, part in enumerate((names[::2], names[1::2]), start=1):
    file = f"{STEM}{middle}-0000{i}-of-00002{suffix}"
    save({name: arrays[name] for name in part}, folder / file)
    places |= dict.fromkeys(part, file)
  (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def to_bin(arrays, file):
  torch = pytest.importorskip("torch")
  torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, file)


def model(root, nested=False, folder="unet", **config):
  """A model's JSON files; returns the directory of its weights."""
  unet, scheduler = (root / folder, root / "scheduler") if nested else (root, root)
  for directory in (unet, scheduler):
    directory.mkdir(parents=True, exist_ok=True)
  (unet / "config.json").write_text(json.dumps({**UNET, **config}))
  (scheduler / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
  return unet


def value_of(path, variant=None):
  """The value of every weight that is read."""
  params = load_pipeline(path, variant=variant).params
  values = {float(v) for v in np.unique(np.concatenate([np.ravel(a) for a in _leaves(params)]))}
  (value,) = values
  return value


def _leaves(tree):
  return [a for v in tree.values() for a in (_leaves(v) if isinstance(v, dict) else [v])]


@pytest.mark.parametrize("nested", [False, True])
def test_full_precision_before_half_and_any_before_none(tmp_path, nested):
  unet = model(tmp_path, nested)
  safetensors(unet / f"{STEM}.fp16.safetensors", 2.0, np.float16)
  safetensors(unet / f"{STEM}.non_ema.safetensors", 3.0)
  assert value_of(tmp_path) == 2.0
  safetensors(unet / f"{STEM}.safetensors", 1.0)
  assert value_of(tmp_path) == 1.0
  assert value_of(tmp_path, "fp16") == 2.0
  assert value_of(tmp_path, "non_ema") == 3.0


@pytest.mark.parametrize(
  ("index", "middle"),
  [
    (f"{STEM}.safetensors.index.json", ""),
    (f"{STEM}.safetensors.index.fp16.json", ".fp16"),
    (f"{STEM}.fp16.safetensors.index.json", ".fp16"),
  ],
)
def test_shards_are_read_by_their_index(tmp_path, index, middle):
  shards(model(tmp_path), 5.0, index, ".safetensors", middle)
  assert value_of(tmp_path) == 5.0


@pytest.mark.parametrize("sharded", [False, True])
def test_other_variants_are_named(tmp_path, sharded):
  unet = model(tmp_path, nested=True)
  if sharded:
    index = f"{STEM}.safetensors.index.non_ema.json"
    shards(unet, 1.0, index, ".safetensors", ".non_ema")
  else:
    safetensors(unet / f"{STEM}.non_ema.safetensors", 1.0)
  with pytest.raises(PretrainedError, match=r"found the variants non_ema: set pretrained\.variant"):
    load_pipeline(tmp_path)
  assert value_of(tmp_path, "non_ema") == 1.0
  with pytest.raises(PretrainedError, match=f"no {STEM}.fp16.safetensors; found the variants"):
    load_pipeline(tmp_path, variant="fp16")


def test_shards_without_their_index_are_named(tmp_path):
  shards(model(tmp_path), 5.0, "other.json", ".safetensors")
  with pytest.raises(PretrainedError, match=r"nor an index of diffusion_pytorch_model-00001-of"):
    load_pipeline(tmp_path)


def test_averaged_weights_in_a_folder_of_their_own(tmp_path):
  safetensors(model(tmp_path, True, "unet_ema", **AVERAGING) / f"{STEM}.safetensors", 1.0)
  assert value_of(tmp_path) == value_of(tmp_path, "ema") == 1.0
  safetensors(model(tmp_path, True) / f"{STEM}.safetensors", 2.0)
  assert value_of(tmp_path) == 2.0  # as diffusers reads it
  assert value_of(tmp_path, "ema") == 1.0


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A hub's local cache without a network; returns the snapshot's directory of an id."""
  constants = pytest.importorskip("huggingface_hub.constants")
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

  def snapshot(name):
    root = tmp_path / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    return root / "snapshots" / commit

  return snapshot


@pytest.mark.parametrize("name", ["google/ddpm-celebahq-256", "google/ddpm-ema-celebahq-256"])
@pytest.mark.parametrize("nested", [False, True])
def test_hub_ids_are_found_in_the_cache(hub, name, nested):
  safetensors(model(hub(name), nested) / f"{STEM}.safetensors", 1.0)
  assert value_of(name) == 1.0


@pytest.mark.parametrize("nested", [False, True])
def test_a_hub_id_with_bin_only(hub, nested):
  unet = model(hub("google/ddpm-ema-celebahq-256"), nested)
  to_bin(weights(1.5), unet / f"{STEM}.bin")
  assert value_of("google/ddpm-ema-celebahq-256") == 1.5


def test_an_unknown_hub_id_is_one_line(hub):
  with pytest.raises(PretrainedError, match="could not be fetched") as caught:
    load_pipeline("google/ddpm-nowhere")
  assert len(str(caught.value).splitlines()) == 1


def test_safetensors_before_bin(tmp_path):
  unet = model(tmp_path)
  to_bin(weights(1.0), unet / f"{STEM}.bin")
  assert value_of(tmp_path) == 1.0
  safetensors(unet / f"{STEM}.safetensors", 2.0)
  assert value_of(tmp_path) == 2.0


def test_sharded_bin(tmp_path):
  shards(model(tmp_path), 3.0, f"{STEM}.bin.index.json", ".bin", save=to_bin)
  assert value_of(tmp_path) == 3.0


def test_bin_in_half_precision(tmp_path):
  torch = pytest.importorskip("torch")
  arrays = {k: torch.from_numpy(v).bfloat16() for k, v in weights(0.5).items()}
  torch.save(arrays, model(tmp_path) / f"{STEM}.fp16.bin")
  assert value_of(tmp_path) == 0.5


class Canary:
  """An object whose unpickling leaves a file behind."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def archive(file, payload):
  """A file in torch.save's format whose pickle is any bytes."""
  with zipfile.ZipFile(file, "w") as opened:
    opened.writestr("archive/data.pkl", payload)
    opened.writestr("archive/version", "3\n")
    opened.writestr("archive/byteorder", "little")


def test_without_torch_a_bin_is_a_line_with_the_command(tmp_path, monkeypatch):
  monkeypatch.setattr(pickled.importlib.util, "find_spec", lambda name: None)
  file, canary = model(tmp_path) / f"{STEM}.bin", tmp_path / "ran"
  archive(file, pickle.dumps(Canary(canary)))
  with pytest.raises(PretrainedError, match=r"convert it.*python -c .*weights_only=True") as caught:
    load_pipeline(tmp_path)
  assert "install the torch extra" in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1
  assert not canary.exists()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
class TestHostileBins:
  """Files that are no state dict: one line each, and no code of theirs is run."""

  def refused(self, tmp_path, file):
    with pytest.raises(PretrainedError) as caught:
      load_pipeline(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(file) in str(caught.value)
    return str(caught.value)

  def test_code_is_not_run(self, tmp_path):
    file, canary = model(tmp_path) / f"{STEM}.bin", tmp_path / "ran"
    archive(file, pickle.dumps({"a": Canary(canary)}, protocol=2))
    assert "torch cannot read it safely" in self.refused(tmp_path, file)
    file.write_bytes(pickle.dumps({"a": Canary(canary)}))
    assert "is no archive of torch.save" in self.refused(tmp_path, file)
    assert not canary.exists()

  def test_what_is_no_state_dict(self, tmp_path):
    import torch

    file = model(tmp_path) / f"{STEM}.bin"
    wrong = {
      "holds a list": [torch.ones(2)],
      "holds a dict where": {},
      "3 is not a floating-point tensor": {3: torch.ones(2)},
      "a is not a floating-point tensor": {"a": torch.ones(2, dtype=torch.int32)},
      "b is not a floating-point tensor": {"b": torch.ones(2, 2).to_sparse()},
      "c is not a floating-point tensor": {"c": "text"},
      "larger than the file": {"d": torch.ones(1).expand(10**14)},
      "there are no weights for": {"e": torch.ones(2)},
    }
    for message, state in wrong.items():
      torch.save(state, file)
      assert message in (self.refused(tmp_path, tmp_path if "weights" in message else file))

  def test_a_bomb_is_not_unpacked(self, tmp_path):
    file = model(tmp_path) / f"{STEM}.bin"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
      opened.writestr("archive/data.pkl", b"\0" * 10**7)
    assert "would unpack to more bytes" in self.refused(tmp_path, file)

  @settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
  )
  @given(data=st.data())
  def test_damaged_bytes_are_read_or_refused(self, tmp_path, data):
    import torch

    file = tmp_path / "model.bin"
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(4).half()}, file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
      content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(
      content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    try:
      arrays = pickled.read_bin(file)
    except PretrainedError as error:
      assert len(str(error).splitlines()) == 1
    else:
      assert all(array.dtype == np.float32 for array in arrays.values())
