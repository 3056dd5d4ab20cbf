"""Where a model's files are: a directory, or a name on a hub whose files are then kept."""

from __future__ import annotations

import importlib.util
import pathlib
import re
from typing import Any

from scorelab.pretrained.files import CONVERT, PICKLES, PretrainedError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_WANTED = ("*.json", "*.safetensors")


def resolve(path: str, revision: str | None = None) -> pathlib.Path:
  """The directory of a model's files.

  Args:
    path: a directory; or where there is none, a hub id such as 'google/ddpm-celebahq-256', whose
      JSON and safetensors files are fetched by `huggingface_hub`, or found where it left them.
    revision: of a hub id, a branch, tag or commit.

  Raises:
    PretrainedError: there is no such directory, and nothing could be fetched.
  """
  directory = pathlib.Path(path).expanduser()
  if directory.is_dir():
    return directory
  if directory.suffix in PICKLES:
    why = "; EDM's also hold their network as source text" if directory.suffix == ".pkl" else ""
    raise PretrainedError(f"{path}: {CONVERT}{why}")
  if directory.exists():
    raise PretrainedError(f"{path}: is a file, and a directory is wanted")
  if not _HUB_ID.fullmatch(path):
    raise PretrainedError(f"{path}: there is no such directory, and it is no hub id OWNER/NAME")
  by_hand = (
    f"put its config.json, scheduler_config.json and safetensors files in a directory {path}"
  )
  if importlib.util.find_spec("huggingface_hub") is None:
    raise PretrainedError(
      f"{path}: there is no such directory; {by_hand}, or install the hub extra"
    )
  hub: Any = importlib.import_module("huggingface_hub")
  try:
    return pathlib.Path(hub.snapshot_download(path, revision=revision, allow_patterns=_WANTED))
  except Exception as error:  # whatever the hub's client or the network raises
    why = str(error).strip().splitlines() or [type(error).__name__]
    raise PretrainedError(f"{path}: could not be fetched ({why[0][:160]}); {by_hand}") from None
