"""How a script ends: exit codes of errors and of stop requests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from scorelab.errors import ScorelabError
from scorelab.runs.signals import PREEMPTED_EXIT_CODE, Preempted


def exit_with(main: Callable[[], int]) -> NoReturn:
  """Ends the program with what `main` returns; with PREEMPTED_EXIT_CODE where it was stopped.

  A run that was refused, or could not go on, is a line and code 2 or 1.
  """
  try:
    sys.exit(main())
  except Preempted:
    print("stopped and saved; the same command goes on", file=sys.stderr)
    sys.exit(PREEMPTED_EXIT_CODE)
  except KeyboardInterrupt:  # outside of a StopFlag's block
    print("interrupted; the same command goes on", file=sys.stderr)
    sys.exit(PREEMPTED_EXIT_CODE)
  except ScorelabError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
