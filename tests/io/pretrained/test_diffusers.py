"""Pipelines that diffusers wrote, against what diffusers computed with them."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scorelab.pretrained import PretrainedError, load_pipeline, save_pipeline
from scorelab.samplers import SAMPLERS, ddim_step
from scorelab.schedules import GRIDS, timesteps
from tests.paths import TESTDATA

pytestmark = pytest.mark.usefixtures("quick_compilation")

TESTDATA = TESTDATA / "pretrained"
PIPELINES = ("ddpm_cifar10_like", "class_cond_modern", "ncsnpp_like")
FIRST = [
  name if name == PIPELINES[0] else pytest.param(name, marks=pytest.mark.e2e) for name in PIPELINES
]
FLAT = "ddpm_cifar10_like_hub_layout"


@functools.cache
def recorded(name):
  with np.load(TESTDATA / name / "io.npz") as arrays:
    return dict(arrays)


@functools.cache
def pipeline(name):
  return load_pipeline(TESTDATA / name)


def outputs(name):
  """Inputs, what the network is told, labels and outputs of the three recorded calls together."""
  io = recorded(name)
  x = np.concatenate([io["x"].astype(np.float32)] * 3)
  t, y = (np.concatenate([io[f"{key}{i}"] for i in range(3)]) for key in "ty")
  labels = np.tile(io["class_labels"], 3) if "class_labels" in io else None
  return x, t, labels, y


@pytest.mark.e2e
@pytest.mark.parametrize("name", PIPELINES)
def test_outputs(name):
  """Outputs up to 5, where float32 rounds to 5e-6; a wrong epsilon of a norm would be 4e-5."""
  x, t, labels, y = outputs(name)
  scale = t[:, None, None, None] if pipeline(name).parameterization.kind == "score" else 1
  out = pipeline(name).forward(x, t, labels)
  np.testing.assert_allclose(out * scale, y * scale, rtol=0, atol=2e-5)


@pytest.mark.e2e
@pytest.mark.parametrize("name", FIRST[:2])
def test_rectangular_images(name):
  io = recorded(name)
  labels = io["class_labels"][:1] if "class_labels" in io else None
  out = pipeline(name).forward(io["x_rect"], 123, labels)
  np.testing.assert_allclose(out, io["y_rect"], rtol=0, atol=2e-5)


@pytest.mark.e2e
@pytest.mark.parametrize("name", FIRST)
def test_every_stage(name):
  """What each module gives to the second call's first image: four channels were kept."""
  io, model = recorded(name), pipeline(name)
  x = jnp.moveaxis(jnp.asarray(io["x"][:1], jnp.float32), 1, -1)
  told = [jnp.asarray(io["t1"][:1], jnp.float32)]
  if "class_labels" in io:
    told.append(jnp.asarray(io["class_labels"][:1]))

  @jax.jit
  def inside(params):
    _, state = model.network.apply({"params": params}, x, *told, capture_intermediates=True)
    return state["intermediates"]

  found = inside(model.params)
  compared = 0
  for key in io:
    path = key.removeprefix("debug/").replace(".", "_")
    if not key.startswith("debug/") or path not in found:
      continue  # the sinusoids are no module here
    (value,) = found[path]["__call__"]
    value = value[0] if isinstance(value, tuple) else value
    value = jnp.moveaxis(value, -1, 1)[:, :4] if value.ndim == 4 else value
    # The Fourier features' angles are up to 2000, which float32 rounds to 1e-4.
    atol = 3e-4 if path == "time_proj" else 2e-5
    np.testing.assert_allclose(value, io[key], rtol=1e-5, atol=atol, err_msg=key)
    compared += 1
  assert compared >= 9


def flat_layout(directory):
  """The first pipeline in one folder, its attentions by the names that they had before."""
  old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
  shutil.copytree(TESTDATA / FLAT, directory, dirs_exist_ok=True)
  weights = load_file(TESTDATA / PIPELINES[0] / "unet" / "diffusion_pytorch_model.safetensors")
  for new, name in old.items():
    weights = {k.replace(f".{new}.", f".{name}."): v for k, v in weights.items()}
  assert any(".proj_attn." in name for name in weights)
  save_file(weights, directory / "diffusion_pytorch_model.safetensors")
  return directory


@pytest.mark.e2e
def test_both_layouts_are_the_same(tmp_path):
  flat, nested = load_pipeline(flat_layout(tmp_path)), pipeline(PIPELINES[0])
  jax.tree.map(np.testing.assert_array_equal, flat.params, nested.params)
  assert flat.network == nested.network
  assert (flat.sampler, flat.event_shape) == (nested.sampler, nested.event_shape)


@pytest.mark.e2e
def test_shards_are_put_together(tmp_path):
  shutil.copytree(TESTDATA / PIPELINES[1], tmp_path, dirs_exist_ok=True)
  file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
  weights = load_file(file)
  file.unlink()
  places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(weights))}
  for shard in set(places.values()):
    held = {k: v for k, v in weights.items() if places[k] == shard}
    save_file(held, tmp_path / "unet" / shard)
  index = {"metadata": {}, "weight_map": places}
  file.with_suffix(".safetensors.index.json").write_text(json.dumps(index))
  jax.tree.map(
    np.testing.assert_array_equal, load_pipeline(tmp_path).params, pipeline(PIPELINES[1]).params
  )


@pytest.mark.e2e
@pytest.mark.parametrize("name", FIRST[:2])
def test_ddim_trajectories(name):
  """Ten steps of a network of random weights, which amplifies rounding: 1e-3 of values up to 6.

  diffusers' DDIM: x0 clipped where the scheduler says so, beside the network's own noise.
  """
  io, model = recorded(name), pipeline(name)
  spacing = model.sampler["spacing"]
  grid = timesteps(model.schedule, 10, spacing=spacing)
  steps = np.round(np.asarray(grid.levels.t[:-1]) * 1000) - 1
  np.testing.assert_array_equal(steps, io["ddim_timesteps"])
  labels = io.get("ddim_class_labels")
  labels = None if labels is None else jnp.asarray(labels)

  @jax.jit
  def step(params, x, now, nxt, z, eta):
    return ddim_step(model.bind(params, labels)(x, now), now, nxt, z, eta)

  for eta in (0.0, 1.0):
    x, path = jnp.moveaxis(jnp.asarray(io["xT"], jnp.float32), 1, -1), []
    for i in range(10):
      z = jnp.moveaxis(jnp.asarray(io["ddim_noise"][i], jnp.float32), 1, -1)
      x = step(model.params, x, grid[i], grid[i + 1], z, jnp.float32(eta))
      path.append(np.moveaxis(np.asarray(x), -1, 1))
    np.testing.assert_allclose(path[-1], io[f"ddim_eta{eta:.0f}_final"], rtol=0, atol=1e-3)
    if not eta:
      np.testing.assert_allclose(np.stack(path)[:, :1], io["ddim_eta0_traj"], rtol=0, atol=1e-3)


def test_labels_are_needed_where_there_are_classes():
  x = np.zeros((1, 1, 16, 16), np.float32)
  with pytest.raises(ValueError, match="class_labels are for a network with classes"):
    pipeline("class_cond_modern").forward(x, 3)
  with pytest.raises(ValueError, match="this one has none"):
    pipeline("ddpm_cifar10_like").forward(np.zeros((1, 3, 32, 32), np.float32), 3, [1])


@pytest.mark.e2e
@pytest.mark.parametrize("name", PIPELINES)
def test_what_is_written_is_read_again(name, tmp_path):
  """Bit for bit, names and shapes as diffusers wrote them; its own check is test_parity.py."""
  model = pipeline(name)
  kind = model.parameterization.kind
  save_pipeline(tmp_path, model.network, model.params, model.schedule, kind, model.event_shape)
  again = load_pipeline(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
  assert again.network == model.network
  ours = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
  theirs = load_file(TESTDATA / name / "unet" / "diffusion_pytorch_model.safetensors")
  assert ours.keys() == theirs.keys()
  assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
  t = jnp.arange(1, 1001) / 1000
  was, now = (jax.device_get(schedule.at(t)) for schedule in (model.schedule, again.schedule))
  np.testing.assert_allclose(now.alpha, was.alpha, rtol=2e-6)
  np.testing.assert_allclose(now.sigma, was.sigma, rtol=2e-6)


def test_what_diffusers_lacks_is_not_written(tmp_path):
  from scorelab.networks import UNet
  from scorelab.schedules import Cosine

  model = pipeline("class_cond_modern")
  with pytest.raises(PretrainedError, match="no UNet: unet2d is written there"):
    save_pipeline(tmp_path, UNet(), {}, model.schedule, "noise", (32, 32, 3))
  with pytest.raises(PretrainedError, match="no scheduler of Cosine"):
    save_pipeline(tmp_path, model.network, model.params, Cosine(), "noise", (16, 16, 1))
  with pytest.raises(PretrainedError, match="gives 'flow'"):
    save_pipeline(tmp_path, model.network, model.params, model.schedule, "flow", (16, 16, 1))


def test_a_hub_id_that_cannot_be_fetched_says_where_to_put_the_files(monkeypatch):
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  with pytest.raises(PretrainedError, match=r"put its config\.json.* in a directory google/ddpm-x"):
    load_pipeline("google/ddpm-x")
  with pytest.raises(PretrainedError, match="no hub id OWNER/NAME"):
    load_pipeline("/no/such/directory")


@pytest.mark.e2e
def test_predictor_corrector_is_their_pipeline(monkeypatch):
  """ScoreSdeVePipeline, 5 steps, its own noise; values up to 1e4, which float32 rounds to 1e-3.

  It tells the network sigmas that are up to 1e-4 from those it steps between: 1e-2 of the result.
  """
  io, model = recorded("ncsnpp_like"), pipeline("ncsnpp_like")
  noise, start, mean, last = (
    jnp.moveaxis(jnp.asarray(io[key], jnp.float32), -3, -1)
    for key in ("pc_noise", "pc_xT", "pc_mean", "pc_traj_last2")
  )
  options = model.sampler | {"num_steps": 5, "event_ndim": 3}
  name, num_steps, grid = (options.pop(key) for key in ("name", "num_steps", "grid"))
  grid = GRIDS[grid](model.schedule, num_steps)
  np.testing.assert_allclose(grid.levels.sigma[:-1], io["pc_sigmas"], rtol=2e-4)

  def split(key, num):
    return noise.reshape(*num, *start.shape)

  monkeypatch.setattr(jax.random, "split", split)
  monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: key)
  key = jax.random.key(0)  # of no effect: the noise is theirs
  sample = jax.jit(lambda params, x: SAMPLERS[name](key, model.bind(params), x, grid, **options))
  found = sample(model.params, grid.levels.sigma[0] * start)
  assert found.nfe == 10
  np.testing.assert_allclose(found.path[-2], last[0], rtol=0, atol=0.03)
  np.testing.assert_allclose(found.x, mean, rtol=0, atol=0.03)
