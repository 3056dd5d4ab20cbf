"""Resolves a model's path to a directory: a local one, or a hub repository's cached files."""

from __future__ import annotations

import importlib.util
import pathlib
import re
from typing import Any

from scorelab.pretrained.files import PretrainedError
from scorelab.pretrained.layout import has_safetensors
from scorelab.pretrained.pickled import PICKLES, refuse_pickle

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_WANTED = ["*.json", "*.safetensors"]
_PICKLED = [
  "*diffusion_pytorch_model*.bin"
]  # downloaded only from repositories without safetensors


def resolve(path: str, revision: str | None = None) -> pathlib.Path:
  """Returns the directory of a model's files.

  Args:
    path: a directory. If it does not exist, a hub id such as 'google/ddpm-ema-celebahq-256':
      `huggingface_hub` downloads its JSON and safetensors files, and `.bin` if there are no
      safetensors, or finds them in its cache.
    revision: of a hub id, a branch, tag or commit.

  Raises:
    PretrainedError: there is no such directory, and nothing could be downloaded.
  """
  directory = pathlib.Path(path).expanduser()
  if directory.is_dir():
    return directory
  if directory.suffix in PICKLES:
    if directory.suffix == ".pkl":
      raise PretrainedError(
        f"{path}: is a pickle, which can run any code; EDM's also hold their network as source text"
      )
    raise refuse_pickle(directory)
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
    fetched = pathlib.Path(hub.snapshot_download(path, revision=revision, allow_patterns=_WANTED))
    if not has_safetensors(fetched):
      hub.snapshot_download(path, revision=revision, allow_patterns=_PICKLED)
  except Exception as error:  # the hub's client may raise anything
    why = str(error).strip().splitlines() or [type(error).__name__]
    raise PretrainedError(f"{path}: could not be fetched ({why[0][:160]}); {by_hand}") from None
  return fetched
