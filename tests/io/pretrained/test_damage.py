"""Damaged and hostile files: one clear line each, nothing run, no memory taken."""

import json
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from scorelab.pretrained import PretrainedError, load_pipeline
from scorelab.pretrained.files import Weights
from scorelab.pretrained.schedulers import read_scheduler
from scorelab.pretrained.unet2d import read_unet2d

NAME = "diffusion_pytorch_model.safetensors"
UNET = {
  "_class_name": "UNet2DModel",
  "sample_size": 8,
  "in_channels": 1,
  "out_channels": 1,
  "block_out_channels": [4],
  "down_block_types": ["DownBlock2D"],
  "up_block_types": ["UpBlock2D"],
  "layers_per_block": 1,
  "norm_num_groups": 2,
  "mid_block_type": None,
}
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 10}
TORCH = {  # by hand, as UNet2DModel(**UNET) names and shapes them
  "conv_in": (4, 1, 3, 3),
  "time_embedding.linear_1": (16, 4),
  "time_embedding.linear_2": (16, 16),
  "conv_norm_out": (4,),
  "conv_out": (1, 4, 3, 3),
}
for _block, _inputs in (
  ("down_blocks.0.resnets.0", 4),
  ("up_blocks.0.resnets.0", 8),
  ("up_blocks.0.resnets.1", 8),
):
  TORCH[f"{_block}.norm1"] = (_inputs,)
  TORCH[f"{_block}.conv1"] = (4, _inputs, 3, 3)
  TORCH[f"{_block}.time_emb_proj"] = (4, 16)
  TORCH[f"{_block}.norm2"] = (4,)
  TORCH[f"{_block}.conv2"] = (4, 4, 3, 3)
  if _inputs != 4:
    TORCH[f"{_block}.conv_shortcut"] = (4, _inputs, 1, 1)


def weights():
  rng = np.random.default_rng(0)
  arrays = {}
  for name, shape in TORCH.items():
    arrays[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
    arrays[f"{name}.bias"] = rng.normal(size=shape[:1]).astype(np.float32)
  return arrays


@pytest.fixture
def model(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(UNET))
  (tmp_path / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
  save_file(weights(), tmp_path / NAME)
  return tmp_path


def test_the_model_itself_is_read(model):
  pipeline = load_pipeline(model)
  kernel = pipeline.params["down_blocks_0"]["resnets_0"]["conv1"]["kernel"]
  stored = weights()["down_blocks.0.resnets.0.conv1.weight"]
  np.testing.assert_array_equal(kernel[2, 1, 3, 0], stored[0, 3, 2, 1])


def rewrite(change):
  def damage(model):
    arrays = weights()
    change(arrays)
    save_file(arrays, model / NAME)

  return damage


def raw(change):
  def damage(model):
    data = (model / NAME).read_bytes()
    (model / NAME).write_bytes(change(data))

  return damage


def header(change):
  def change_bytes(data):
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    text = json.dumps(change(entries)).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]

  return raw(change_bytes)


def entry(name="conv_in.bias", **fields):
  return header(lambda entries: entries | {name: entries[name] | fields})


def config(name="config.json", **fields):
  def damage(model):
    value = json.loads((model / name).read_text()) | fields
    (model / name).write_text(json.dumps(value))

  return damage


def text(name, content):
  return lambda model: (model / name).write_text(content)


def index(place):
  def damage(model):
    shutil.move(model / NAME, model / "part.safetensors")
    places = dict.fromkeys(weights(), "part.safetensors") | {"conv_in.bias": place}
    (model / f"{NAME}.index.json").write_text(json.dumps({"weight_map": places}))

  return damage


def rename(arrays):
  arrays["conv_in.bais"] = arrays.pop("conv_in.bias")


DAMAGES = {
  "truncated": (raw(lambda data: data[:-1]), "bytes, and has"),
  "half": (raw(lambda data: data[: len(data) // 2]), "bytes, and has"),
  "seven bytes": (raw(lambda data: data[:7]), "no safetensors, or torn"),
  "empty": (raw(lambda data: b""), "no safetensors, or torn"),
  "longer": (raw(lambda data: data + b"0000"), "and the header says"),
  "no JSON": (raw(lambda data: data[:8] + b"x" + data[9:]), "no JSON"),
  "a list": (raw(lambda data: struct.pack("<Q", 2) + b"[]"), "holds a list"),
  "deep": (raw(lambda data: struct.pack("<Q", 200_000) + b"[" * 200_000), "no JSON"),
  "1 TB of header": (raw(lambda data: struct.pack("<Q", 10**12) + data[8:]), "1000000000000"),
  "1 TB of tensor": (entry(shape=[10**12 // 4]), "takes 1000000000000 bytes"),
  "a huge shape": (entry(shape=[2**62, 2**62]), "bytes, and has"),
  "a negative shape": (entry(shape=[-4]), "no shape and place"),
  "places beyond": (entry(data_offsets=[10**9, 10**9 + 16]), "takes 16 bytes, and has"),
  "places of another": (entry("conv_out.bias", data_offsets=[0, 4]), "begins at"),
  "places as text": (entry(data_offsets="0:16"), "no shape and place"),
  "an unknown dtype": (entry(dtype="F128"), "dtype F128"),
  "another size of dtype": (entry(dtype="F16"), "takes 8 bytes"),
  "no entry": (header(lambda entries: entries | {"x": 3}), "x is of dtype 3"),
  "integers": (rewrite(lambda a: a.update({"conv_in.bias": np.arange(4)})), "dtype I64"),
  "renamed": (rewrite(rename), "no weights for conv_in.bias"),
  "missing": (rewrite(lambda a: a.pop("conv_in.bias")), "no weights for conv_in.bias"),
  "extra": (rewrite(lambda a: a.update(more=np.ones(3, np.float32))), "the network has no more"),
  "mis-shaped": (
    rewrite(lambda a: a.update({"conv_in.bias": np.ones(5, np.float32)})),
    r"conv_in.bias is of shape \(5,\), not \(4,\)",
  ),
  "transposed": (
    rewrite(lambda a: a.update({"conv_out.weight": np.ones((4, 1, 3, 3), np.float32)})),
    r"conv_out.weight is of shape \(4, 1, 3, 3\), not \(1, 4, 3, 3\)",
  ),
  "unknown block": (config(down_block_types=["CrossAttnDownBlock2D"]), "CrossAttnDownBlock2D"),
  "unknown option": (config(encoder_hid_dim=3), "encoder_hid_dim = 3 is an option"),
  "unknown model": (config(_class_name="UNet2DConditionModel"), "UNet2DConditionModel"),
  "unknown middle": (config(mid_block_type="Mid"), "mid_block_type = 'Mid'"),
  "blocks of another number": (config(up_block_types=["UpBlock2D"] * 2), "as long as"),
  "groups": (config(norm_num_groups=3), "no 3 groups"),
  "wide": (config(block_out_channels=[10**12]), "block_out_channels"),
  "wider": (config(block_out_channels=[2**20]), "is of shape"),
  "deep network": (config(layers_per_block=10**9), "layers_per_block = 1000000000"),
  "no number": (config(norm_eps="small"), "norm_eps = small"),
  "infinite": (config(norm_eps=float("inf")), "norm_eps = inf"),
  "no channels": (config(in_channels=0), "in_channels = 0"),
  "nested": (config(act_fn=[[["silu"]]]), "act_fn"),
  "size": (config(sample_size=[8, 8, 8]), "sample_size"),
  "other outputs": (config(out_channels=5), "out_channels = 5 does not go with"),
  "config no JSON": (text("config.json", "{"), "no JSON"),
  "config a number": (text("config.json", "3"), "holds a int"),
  "config deep": (text("config.json", "[" * 200_000), "no JSON"),
  "many digits": (text("config.json", '{"norm_eps": ' + "9" * 10_000 + "}"), "config.json"),
  "no config": (lambda model: (model / "config.json").unlink(), "no such file"),
  "no scheduler": (lambda model: (model / "scheduler_config.json").unlink(), "no such file"),
  "unknown scheduler": (
    config("scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
    "FlowMatchEulerDiscreteScheduler",
  ),
  "scheduler's class a list": (config("scheduler_config.json", _class_name=["x"]), "_class_name"),
  "betas": (config("scheduler_config.json", beta_end=7.0), "beta_end = 7.0"),
  "curve": (config("scheduler_config.json", beta_schedule="exp"), "beta_schedule = exp"),
  "many steps": (config("scheduler_config.json", num_train_timesteps=10**12), "must be from 1"),
  "prediction": (config("scheduler_config.json", prediction_type="flow"), "prediction_type"),
  "path above": (index("../part.safetensors"), "no safetensors file of this directory"),
  "path at the root": (index("/etc/passwd"), "no safetensors file of this directory"),
  "path as number": (index(3), "no safetensors file of this directory"),
  "shard missing": (index("other.safetensors"), "no such file"),
  "index no map": (
    lambda model: (model / NAME).rename(model / "x") and text(f"{NAME}.index.json", "{}")(model),
    "no weight_map",
  ),
  "code": (text("model_index.json", '{"unet": ["my_code", "Net"]}'), "not a class of diffusers"),
  "text encoder": (text("model_index.json", '{"text_encoder": ["a", "b"]}'), "text_encoder"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_one_clear_line(model, damage, message):
  damage(model)
  tracemalloc.start()
  with pytest.raises(PretrainedError, match=message) as caught:
    load_pipeline(model)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert len(str(caught.value).splitlines()) == 1
  assert len(str(caught.value)) < 900
  assert str(model) in str(caught.value)
  assert peak < 50e6


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_flipped_bytes_are_read_or_refused(tmp_path_factory, data):
  file = tmp_path_factory.mktemp("flipped") / "model.safetensors"
  save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, file)
  content = bytearray(file.read_bytes())
  for _ in range(data.draw(st.integers(1, 4))):
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
  file.write_bytes(content)
  try:
    read = dict(Weights(file))
  except PretrainedError as error:
    assert len(str(error).splitlines()) == 1
  else:
    assert all(array.dtype == np.float32 for array in read.values())


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
  max_leaves=5,
)


@pytest.mark.e2e
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_settings_are_read_or_refused(data):
  base, read = data.draw(st.sampled_from([(UNET, read_unet2d), (SCHEDULER, read_scheduler)]))
  fields = ["beta_start", "trained_betas", "prediction_type", "clip_sample_range", "thresholding"]
  fields = [*UNET, "attention_head_dim", "class_embed_type"] if base is UNET else [*base, *fields]
  changed = base | {data.draw(st.sampled_from(fields)): data.draw(JSON)}
  try:
    read(changed)
  except PretrainedError as error:
    assert len(str(error).splitlines()) == 1
