"""Reads PyTorch's `.bin` files with torch's safe reader. They are pickles, which can run any code.

`torch.load(weights_only=True)` runs no code of the file: its unpickler knows only tensors and
containers. It does not bound memory, so the archive's sizes are checked first.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import shlex
import zipfile
from typing import Any

import numpy as np

from scorelab.pretrained.files import Arrays, PretrainedError, shown

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".pickle")
_MAX_PICKLE = 100_000_000  # bytes of names and shapes, in addition to the numbers


def refuse_pickle(file: pathlib.Path) -> PretrainedError:
  """Returns the error for a pickle that is not read, with the command that converts it."""
  target = file.with_suffix(".safetensors")
  code = (
    "import sys, torch, safetensors.torch as s; "
    "s.save_file({k: v.contiguous() for k, v in torch.load(sys.argv[1], map_location='cpu', "
    "weights_only=True).items()}, sys.argv[2])"
  )
  command = shlex.join(["python", "-c", code, str(file), str(target)])
  return PretrainedError(
    f"{file}: is a pickle, which can run any code; convert it, with torch and safetensors "
    f"installed, by: {command}"
  )


def read_bin(file: pathlib.Path) -> Arrays:
  """Returns the tensors of a `.bin` file as float32 arrays, by name.

  Raises:
    PretrainedError: torch is not installed (the message has the command that converts the file), or
      the file is not a state dict of floating-point tensors in PyTorch's archive format.
  """
  if importlib.util.find_spec("torch") is None:
    error = refuse_pickle(file)
    raise PretrainedError(f"{error} (or install the torch extra: it is then read safely)")
  _check_archive(file)
  torch: Any = importlib.import_module("torch")
  try:
    state = torch.load(file, map_location="cpu", weights_only=True)
  except Exception as error:  # torch may raise anything at a damaged or hostile file
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise PretrainedError(f"{file}: torch cannot read it safely ({shown(why)})") from None
  if not isinstance(state, dict) or not state:
    raise PretrainedError(
      f"{file}: holds a {type(state).__name__} where tensors by name are wanted"
    )
  arrays, size = Arrays(), 0
  for name, tensor in state.items():
    plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
    if not isinstance(name, str) or not plain or not tensor.is_floating_point():
      raise PretrainedError(f"{file}: {shown(name)} is not a floating-point tensor")
    size += tensor.numel() * tensor.element_size()
    if size > file.stat().st_size:  # views of one storage, before they are copied
      raise PretrainedError(f"{file}: its tensors are larger than the file")
    arrays[name] = np.array(tensor.detach().to(torch.float32).numpy())
  return arrays


def _check_archive(file: pathlib.Path) -> None:
  """Raises PretrainedError unless the file is an archive of PyTorch >= 1.6 of plausible size."""
  try:
    with zipfile.ZipFile(file) as archive:
      entries = archive.infolist()
  except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
    raise PretrainedError(
      f"{file}: is not an archive of torch.save, or it is damaged ({shown(str(error))})"
    ) from None
  if sum(entry.file_size for entry in entries) > file.stat().st_size:
    raise PretrainedError(f"{file}: would unpack to more bytes than the file has")
  if any(e.filename.endswith("data.pkl") and e.file_size > _MAX_PICKLE for e in entries):
    raise PretrainedError(f"{file}: has more than {_MAX_PICKLE} bytes of names and shapes")
