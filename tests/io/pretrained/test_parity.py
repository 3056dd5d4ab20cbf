"""Side by side with diffusers itself: `pip install -e '.[dev,parity]'`; skipped without it.

Models of random weights of every block type and option, both ways; and of the real sizes.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from scorelab.networks import UNet2D  # noqa: E402
from scorelab.pretrained import load_pipeline, save_pipeline  # noqa: E402
from scorelab.samplers import ddim  # noqa: E402
from scorelab.schedules import Discrete, linear_betas, timesteps  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")


def theirs(**options):
  """A model of random weights, none of them zero."""
  torch.manual_seed(0)
  model = diffusers.UNet2DModel(**options).eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if name.endswith("bias") or "norm" in name:
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
  return model


def saved(model, directory, **scheduler):
  scheduler = diffusers.DDPMScheduler(**scheduler)
  diffusers.DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(directory)
  return directory


def output(model, x, t, labels=None):
  told = {} if labels is None else {"class_labels": torch.as_tensor(labels)}
  with torch.no_grad():
    return model(torch.as_tensor(x), torch.as_tensor(t), **told).sample.numpy()


BASE = {
  "sample_size": 16,
  "block_out_channels": (16, 32),
  "layers_per_block": 1,
  "norm_num_groups": 8,
  "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
  "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
SKIPS = {
  "block_out_channels": (32, 32),
  "down_block_types": ("AttnSkipDownBlock2D", "SkipDownBlock2D"),
  "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D"),
  "norm_num_groups": None,
  "mid_block_scale_factor": 2**0.5,
}
RESNETS = {
  "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
  "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
OPTIONS = {
  "heads": {"attention_head_dim": 4, "freq_shift": 1, "flip_sin_to_cos": False},
  "heads that leave channels over": {"attention_head_dim": 12},
  "skips": SKIPS,
  "fourier": SKIPS | {"time_embedding_type": "fourier"},
  "learned time": {"time_embedding_type": "learned", "num_train_timesteps": 1000},
  "resnet blocks": RESNETS,
  "resnet resampling": {
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
  },
  "scale and shift": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
  "scale and shift, no norm": {"resnet_time_scale_shift": "scale_shift"},
  "asymmetric padding": {"downsample_padding": 0, "act_fn": "gelu", "center_input_sample": True},
  "no attention": {"add_attention": False, "act_fn": "mish", "time_embedding_dim": 24},
  "no middle": {"mid_block_type": None, "act_fn": "relu", "in_channels": 1, "out_channels": 1},
  "classes": {"num_class_embeds": 7},
  "classes as times": {"class_embed_type": "timestep"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(name, tmp_path):
  """Outputs of order 1; float32 rounds to 5e-6 (2e-5 for Fourier features, times sigma)."""
  options = BASE | OPTIONS[name]
  model = theirs(**options)
  x = np.random.default_rng(0).normal(size=(2, model.config.in_channels, 16, 8)).astype(np.float32)
  t = np.array([3, 871]) if options.get("time_embedding_type") != "fourier" else np.array([0.3, 50])
  labels = np.array([2, 5]) if "class" in name else None
  expected = output(model, x, t, labels)
  out = load_pipeline(saved(model, tmp_path)).forward(x, t, labels)
  scale = t[:, None, None, None] if options.get("time_embedding_type") == "fourier" else 1
  np.testing.assert_allclose(out * scale, expected * scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["noise", "v"])
def test_what_we_write_is_theirs(kind, tmp_path):
  """Weights, config and scheduler: the same outputs and the same levels."""
  network = UNet2D(
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=8,
  )
  x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  t = np.array([3, 871], np.float32)
  params = jax.jit(network.init)(jax.random.key(0), x, t)["params"]
  schedule = Discrete(linear_betas(num_levels=500))
  save_pipeline(tmp_path, network, params, schedule, kind, (16, 16, 3))
  pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
  expected = np.moveaxis(np.asarray(jax.jit(network.apply)({"params": params}, x, t)), -1, 1)
  out = output(pipeline.unet, np.moveaxis(x, -1, 1), t)
  np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5)
  assert (
    pipeline.scheduler.config.prediction_type == {"noise": "epsilon", "v": "v_prediction"}[kind]
  )
  products = pipeline.scheduler.alphas_cumprod.numpy()
  np.testing.assert_allclose(schedule.at(jnp.arange(1, 501) / 500).alpha ** 2, products, rtol=1e-5)


# Of the public models, as their config.json have them; weights are random here.
_DDPM = {
  "downsample_padding": 0,
  "flip_sin_to_cos": False,
  "freq_shift": 1,
  "norm_eps": 1e-6,
  "attention_head_dim": None,
}
REAL = {
  "ddpm-cifar10-32": _DDPM
  | {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
  },
  "ddpm-celebahq-256": _DDPM
  | {
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
  },
  "ncsnpp-celebahq-256": {
    "sample_size": 256,
    "block_out_channels": (128, 128, *(256,) * 5),
    "down_block_types": (
      *("SkipDownBlock2D",) * 4,
      "AttnSkipDownBlock2D",
      *("SkipDownBlock2D",) * 2,
    ),
    "up_block_types": (*("SkipUpBlock2D",) * 2, "AttnSkipUpBlock2D", *("SkipUpBlock2D",) * 4),
    "downsample_padding": 1,
    "mid_block_scale_factor": 1.41421356237,
    "norm_eps": 1e-6,
    "norm_num_groups": None,
    "attention_head_dim": None,
    "time_embedding_type": "fourier",
  },
}
# Peak resident memory over what was there before, and the processor's seconds (the clock's depend
# on who else is there), in a process of its own; a tiny model is read first, so that what the
# libraries themselves take is there already.
LOAD = """
import json, pathlib, sys, time
from scorelab.pretrained import load_pipeline
load_pipeline("tests/testdata/pretrained/class_cond_modern")
def memory(field):
  status = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(status.partition(field + ":")[2].split()[0])
pathlib.Path("/proc/self/clear_refs").write_text("5")
before, begun = memory("VmRSS"), time.process_time()
pipeline = load_pipeline(sys.argv[1])
print(json.dumps({"seconds": time.process_time() - begun, "bytes": memory("VmHWM") - before}))
"""


@pytest.fixture(scope="module", params=REAL)
def real(request, tmp_path_factory):
  model = theirs(**REAL[request.param])
  return model, saved(model, tmp_path_factory.mktemp("real") / request.param)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_real_sizes_load_quickly_and_within_their_own_size(real):
  model, directory = real
  size = sum(4 * parameter.numel() for parameter in model.parameters())
  run = subprocess.run(
    [sys.executable, "-c", LOAD, directory], capture_output=True, text=True, check=True
  )
  found = json.loads(run.stdout)
  print(f"{directory.name}: {size / 1e6:.0f} MB, {found}")
  assert found["seconds"] < 20
  assert found["bytes"] < 1.2 * size


@pytest.mark.slow
def test_real_sizes_agree(real):
  """At 64 x 64, outputs of order 1."""
  model, directory = real
  x = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
  t = np.array([17])
  out = load_pipeline(directory).forward(x, t)
  scale = 17 if model.config.time_embedding_type == "fourier" else 1
  np.testing.assert_allclose(out * scale, output(model, x, t) * scale, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_largest_agrees_at_its_own_size(tmp_path):
  """NCSN++ at 256 x 256: everything is as published but the weights."""
  model = theirs(**REAL["ncsnpp-celebahq-256"])
  x = np.random.default_rng(0).uniform(size=(1, 3, 256, 256)).astype(np.float32)
  t = np.array([17.0], np.float32)
  out = load_pipeline(saved(model, tmp_path)).forward(x, t)
  np.testing.assert_allclose(out * 17, output(model, x, t) * 17, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_real_size_is_sampled(tmp_path):
  model = theirs(**REAL["ddpm-celebahq-256"])
  pipeline = load_pipeline(saved(model, tmp_path))
  grid = timesteps(pipeline.schedule, 10)

  @jax.jit
  def run(params, x):
    return ddim(jax.random.key(0), pipeline.bind(params), x, grid)

  samples = run(pipeline.params, jax.random.normal(jax.random.key(1), (1, 256, 256, 3)))
  assert samples.nfe == 10
  assert np.isfinite(samples.x).all()
