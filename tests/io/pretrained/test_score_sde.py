"""score_sde's layout, written by a module that names its layers as Flax does by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import serialization

from scorelab.networks.unet2d_blocks import average_down, fir_down, fir_up, nearest_up
from scorelab.pretrained import PretrainedError, load_pipeline, load_score_sde, score_sde_unet

pytestmark = pytest.mark.usefixtures("quick_compilation")


def norm(h):
  return nn.GroupNorm(min(h.shape[-1] // 4, 32))(h)  # Flax's own epsilon, 1e-6


class NIN(nn.Module):
  width: int

  @nn.compact
  def __call__(self, h):
    w = self.param("W", nn.initializers.lecun_normal(), (h.shape[-1], self.width))
    return h @ w + self.param("b", nn.initializers.normal(0.1), (self.width,))


class AttnBlockpp(nn.Module):
  @nn.compact
  def __call__(self, x):
    h = norm(x)
    q, k, v = (NIN(x.shape[-1])(h) for _ in range(3))
    weights = nn.softmax(jnp.einsum("bhwc,bijc->bhwij", q, k) / x.shape[-1] ** 0.5, axis=(-2, -1))
    return (x + NIN(x.shape[-1])(jnp.einsum("bhwij,bijc->bhwc", weights, v))) / 2**0.5


class ResnetBlockBigGANpp(nn.Module):
  width: int
  resample: object = None

  @nn.compact
  def __call__(self, x, told):
    channels = x.shape[-1]
    h = nn.silu(norm(x))
    if self.resample:
      x, h = self.resample(x), self.resample(h)
    h = nn.Conv(self.width, (3, 3))(h) + nn.Dense(self.width)(nn.silu(told))[:, None, None]
    h = nn.Conv(self.width, (3, 3))(nn.silu(norm(h)))
    if channels != self.width or self.resample:
      x = nn.Conv(self.width, (1, 1))(x)
    return (x + h) / 2**0.5


class Combine(nn.Module):
  @nn.compact
  def __call__(self, image, h):
    return nn.Conv(h.shape[-1], (1, 1))(image) + h


class GaussianFourierProjection(nn.Module):
  @nn.compact
  def __call__(self, log_sigma):
    angles = log_sigma[:, None] * self.param("W", nn.initializers.normal(2.0), (32,)) * 2 * np.pi
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Reference(nn.Module):
  """Widths 32 and 128, one block a stage, attention at the coarser one."""

  skips: bool

  @nn.compact
  def __call__(self, x, c):
    down, up = (fir_down, fir_up) if self.skips else (average_down, nearest_up)
    if self.skips:
      told = GaussianFourierProjection()(jnp.log(c))
      x = 2 * x - 1
    else:
      angles = c[:, None] * jnp.exp(-np.log(1e4) * jnp.arange(16) / 15)
      told = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    told = nn.Dense(128)(told)
    told = nn.Dense(128)(nn.silu(told))
    h = nn.Conv(32, (3, 3))(x)
    skipped = [h]
    h = ResnetBlockBigGANpp(32)(h, told)
    skipped.append(h)
    h = ResnetBlockBigGANpp(32, down)(h, told)
    if self.skips:
      h = Combine()(fir_down(x), h)
    skipped.append(h)
    h = AttnBlockpp()(ResnetBlockBigGANpp(128)(h, told))
    skipped.append(h)
    h = AttnBlockpp()(ResnetBlockBigGANpp(128)(h, told))
    h = ResnetBlockBigGANpp(128)(h, told)
    for _ in range(2):
      h = ResnetBlockBigGANpp(128)(jnp.concatenate([h, skipped.pop()], axis=-1), told)
    h = AttnBlockpp()(h)
    drawn = up(nn.Conv(3, (3, 3))(nn.silu(norm(h)))) if self.skips else 0
    h = ResnetBlockBigGANpp(128, up)(h, told)
    for _ in range(2):
      h = ResnetBlockBigGANpp(32)(jnp.concatenate([h, skipped.pop()], axis=-1), told)
    h = nn.Conv(3, (3, 3))(nn.silu(norm(h))) + drawn
    return h / c[:, None, None, None] if self.skips else h


def network(skips):
  return score_sde_unet(
    image_size=8,
    nf=32,
    ch_mult=(1, 4),
    num_res_blocks=1,
    attn_resolutions=(4,),
    skips=skips,
    fourier=skips,
    centered=not skips,
  )


X = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
C = np.array([0.3, 7.0], np.float32)


@pytest.mark.e2e
@pytest.mark.parametrize("skips", [True, False], ids=["ncsnpp", "ddpmpp"])
def test_checkpoints_are_read(skips, tmp_path):
  """The reference's outputs, in float32: 2e-5 of values up to 10, over sigma >= 0.3."""
  reference, ours = Reference(skips), network(skips)
  params = jax.jit(reference.init)(jax.random.key(0), X, C)["params"]
  state = {"step": 3, "params_ema": params, "ema_rate": 0.999, "rng": np.zeros(2, np.uint32)}
  (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(state))
  read = load_score_sde(tmp_path / "checkpoint", ours)
  expected = jax.jit(reference.apply)({"params": params}, X, C)
  out = jax.jit(ours.apply)({"params": read}, X, C)
  np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


def test_other_checkpoints_are_one_line(tmp_path):
  file = tmp_path / "checkpoint"
  for content, message in (
    (b"\xc1", "not a msgpack file"),
    (serialization.msgpack_serialize({"params_ema": {}}), "no weights for AttnBlockpp_0"),
    (
      serialization.msgpack_serialize({"params_ema": {"Downsample_0": {"bias": np.ones(3)}}}),
      "are of progressive_input 'residual'",
    ),
    (serialization.msgpack_serialize([1]), "holds no parameters"),
  ):
    file.write_bytes(content)
    with pytest.raises(PretrainedError, match=message) as caught:
      load_score_sde(file, network(skips=True))
    assert len(str(caught.value).splitlines()) == 1
  with pytest.raises(PretrainedError, match="no such file"):
    load_score_sde(tmp_path / "none", network(skips=True))


def test_edm_pickles_are_refused():
  with pytest.raises(
    PretrainedError, match=r"is a pickle.*EDM's also hold their network as source"
  ):
    load_pipeline("edm-cifar10-32x32-uncond-vp.pkl")
