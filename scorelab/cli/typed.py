"""Command line of a tool, as one would type it again."""

from __future__ import annotations

import pathlib
import shlex
import sys
from collections.abc import Sequence


def typed(tool: str, argv: Sequence[str] | None) -> str:
  """Returns the command of `scorelab-TOOL`, or of scripts/TOOL.py if that was started.

  Args:
    tool: 'sweep' or 'report'.
    argv: the arguments; None for those of this process.
  """
  console = f"scorelab-{tool}"
  start = (
    [console] if pathlib.Path(sys.argv[0]).stem == console else ["python", f"scripts/{tool}.py"]
  )
  return shlex.join([*start, *map(str, sys.argv[1:] if argv is None else argv)])
