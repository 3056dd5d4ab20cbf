"""`scorelab` and `python -m scorelab`: main.py, with the configs that an installed wheel brings.

scorelab --config=configs/ncsn_gmm.py    # from any folder; results/ is made in it
"""

from __future__ import annotations

from scorelab import early_stop

TYPE_CHECKING = False
if TYPE_CHECKING:
  import pathlib


def found(argument: str, root: pathlib.Path) -> str:
  """The argument; of --config=configs/NAME.py, where there is none here, the one in root."""
  import pathlib

  name, _, value = argument.partition("=")
  here = pathlib.Path(value.partition(":")[0]).is_file()
  if name.lstrip("-") != "config" or not value.startswith("configs/") or here:
    return argument
  return f"{name}={root / value}"


def main() -> None:
  """Runs main.py on the command line's arguments."""
  early_stop.install("main.py: stopped before the run began")
  import pathlib  # only now: these imports take long enough to be interrupted
  import runpy
  import sys

  package = pathlib.Path(__file__).parent
  brought = package / "brought"  # a wheel's main.py and configs/; a checkout has them above
  root = brought if brought.is_dir() else package.parent
  sys.path.insert(0, str(root))  # configs import each other
  sys.argv = [found(argument, root) for argument in sys.argv]
  runpy.run_path(str(root / "main.py"), run_name="__main__")


if __name__ == "__main__":
  main()
