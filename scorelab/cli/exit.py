"""How a script ends: exit codes of errors and of stop requests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from scorelab.errors import ScorelabError
from scorelab.runs.signals import PREEMPTED_EXIT_CODE


def exit_with(main: Callable[[], int]) -> NoReturn:
  """Ends the program with what `main` returns, or with one line and the exit code of its error."""
  try:
    sys.exit(main())
  except KeyboardInterrupt:  # outside of a StopFlag's block
    print("interrupted; the same command goes on", file=sys.stderr)
    sys.exit(PREEMPTED_EXIT_CODE)
  except ScorelabError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
