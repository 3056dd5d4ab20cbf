"""`scorelab` and `python -m scorelab`: main.py, with the configs that an installed wheel brings.

scorelab --config=configs/ncsn_gmm.py    # from any folder; results/ is made in it
"""

from __future__ import annotations

import pathlib
import runpy
import sys

_PACKAGE = pathlib.Path(__file__).parent
_BROUGHT = _PACKAGE / "brought"  # a wheel's main.py and configs/; a checkout has them above


def found(argument: str, root: pathlib.Path) -> str:
  """The argument; of --config=configs/NAME.py, where there is none here, the one in root."""
  name, _, value = argument.partition("=")
  here = pathlib.Path(value.partition(":")[0]).is_file()
  if name.lstrip("-") != "config" or not value.startswith("configs/") or here:
    return argument
  return f"{name}={root / value}"


def main() -> None:
  """Runs main.py on the command line's arguments."""
  root = _BROUGHT if _BROUGHT.is_dir() else _PACKAGE.parent
  sys.path.insert(0, str(root))  # configs import each other
  sys.argv = [found(argument, root) for argument in sys.argv]
  runpy.run_path(str(root / "main.py"), run_name="__main__")


if __name__ == "__main__":
  main()
