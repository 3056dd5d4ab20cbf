"""The U-Net of scorelab/networks/unet.py in PyTorch, for timings: ResNet blocks only.

Its weights have the names that `scorelab.pretrained.unet_params` reads, so that both can be given
the same ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS, HEAD_DIM = 4, 32


class Sinusoids(nn.Module):
  """Sines, then cosines, of the level: [b] -> [b, dim]."""

  def __init__(self, dim: int) -> None:
    super().__init__()
    self.register_buffer("frequencies", torch.logspace(0, -4, dim // 2), persistent=False)

  def forward(self, t: Tensor) -> Tensor:
    angles = t[:, None] * self.frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


class Half(nn.Module):
  """Convolution, normalisation, SiLU."""

  def __init__(self, inputs: int, outputs: int) -> None:
    super().__init__()
    self.proj, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs)

  def forward(self, x: Tensor) -> Tensor:
    return functional.silu(self.norm(self.proj(x)))


class Block(nn.Module):
  """Two halves, the condition added between them, with a residual path."""

  def __init__(self, inputs: int, outputs: int, told: int | None) -> None:
    super().__init__()
    self.mlp = None if told is None else nn.Sequential(nn.SiLU(), nn.Linear(told, outputs))
    self.block1, self.block2 = Half(inputs, outputs), Half(outputs, outputs)
    self.res_conv = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

  def forward(self, x: Tensor, told: Tensor) -> Tensor:
    h = self.block1(x)
    if self.mlp is not None:
      h = h + self.mlp(told)[:, :, None, None]
    return self.block2(h) + self.res_conv(x)


class Attention(nn.Module):
  """Among pixels: of every pair, or through a summary whose keys are normalised over channels."""

  def __init__(self, dim: int, linear: bool) -> None:
    super().__init__()
    inner, self.linear = HEADS * HEAD_DIM, linear
    self.to_qkv = nn.Conv2d(dim, 3 * inner, 1, bias=linear)
    out = nn.Conv2d(inner, dim, 1)
    self.to_out = nn.Sequential(out, nn.GroupNorm(1, dim)) if linear else out

  def forward(self, x: Tensor) -> Tensor:
    b, _, height, width = x.shape
    qkv = self.to_qkv(x).reshape(b, 3, HEADS, HEAD_DIM, height * width)
    q, k, v = qkv.transpose(-1, -2).unbind(1)  # each [b, heads, pixels, channels]
    if self.linear:
      summary = k.softmax(-1).transpose(-1, -2) @ v
      h = q.softmax(-1) / HEAD_DIM**0.5 @ summary
    else:
      h = functional.scaled_dot_product_attention(q, k, v)
    return self.to_out(h.transpose(-1, -2).reshape(b, -1, height, width))


class Normed(nn.Module):
  """An attention of what one group normalises."""

  def __init__(self, dim: int, linear: bool) -> None:
    super().__init__()
    self.norm, self.fn = nn.GroupNorm(1, dim), Attention(dim, linear)

  def forward(self, x: Tensor) -> Tensor:
    return self.fn(self.norm(x))


class Residual(nn.Module):
  """x + f(x)."""

  def __init__(self, dim: int, linear: bool) -> None:
    super().__init__()
    self.fn = Normed(dim, linear)

  def forward(self, x: Tensor) -> Tensor:
    return x + self.fn(x)


class TorchUNet(nn.Module):
  """(x [b, channels, h, w], level [b]) -> [b, channels, h, w]."""

  def __init__(self, dim: int, dim_mults: tuple[int, ...], channels: int = 3) -> None:
    super().__init__()
    widths, told, stem = [dim * m for m in dim_mults], 4 * dim, dim // 3 * 2
    self.init_conv = nn.Conv2d(channels, stem, 7, padding=3)
    self.time_mlp = nn.Sequential(
      Sinusoids(dim), nn.Linear(dim, told), nn.GELU(), nn.Linear(told, told)
    )

    def stage(inputs: int, outputs: int, resample: nn.Module) -> nn.ModuleList:
      blocks = Block(inputs, outputs, told), Block(outputs, outputs, told)
      return nn.ModuleList([*blocks, Residual(outputs, linear=True), resample])

    self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
    for i, width in enumerate(widths):
      last = i == len(widths) - 1
      down = nn.Identity() if last else nn.Conv2d(width, width, 4, 2, 1)
      self.downs.append(stage(widths[i - 1] if i else stem, width, down))
    middle = widths[-1]
    self.mid_block1, self.mid_block2 = (Block(middle, middle, told) for _ in range(2))
    self.mid_attn = Residual(middle, linear=False)
    for i in reversed(range(1, len(widths))):
      width = widths[i - 1]
      self.ups.append(stage(2 * widths[i], width, nn.ConvTranspose2d(width, width, 4, 2, 1)))
    self.final_conv = nn.ModuleList([Block(dim, dim, None), nn.Conv2d(dim, channels, 1)])

  def forward(self, x: Tensor, t: Tensor) -> Tensor:
    told, h, skips = self.time_mlp(t), self.init_conv(x), []
    for first, second, attention, resample in self.downs:
      h = attention(second(first(h, told), told))
      skips.append(h)
      h = resample(h)
    h = self.mid_block2(self.mid_attn(self.mid_block1(h, told)), told)
    for first, second, attention, resample in self.ups:
      h = torch.cat([h, skips.pop()], 1)
      h = resample(attention(second(first(h, told), told)))
    block, last = self.final_conv
    return last(block(h, told))
