"""Exit codes of a script's errors and stop requests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from scorelab.errors import ScorelabError
from scorelab.runs.signals import PREEMPTED_EXIT_CODE


def exit_with(main: Callable[[], int]) -> NoReturn:
  """Exits with the return value of `main`, or with an error's one line and exit code."""
  try:
    sys.exit(main())
  except KeyboardInterrupt:  # outside of a StopFlag's block
    print("interrupted; run the same command to resume", file=sys.stderr)
    sys.exit(PREEMPTED_EXIT_CODE)
  except ScorelabError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
