"""Entry point of `scorelab` and `python -m scorelab`: the program of main.py, from any directory.

scorelab --config=configs/ncsn_gmm.py    # results/ is created in the current directory
scorelab options sampler.dpmpp_2m        # lists the options of a part
"""

from __future__ import annotations

import sys

from scorelab import early_stop


def main() -> int:
  """Runs the command line of this process and returns its exit code."""
  early_stop.install("main.py: stopped before the run began")
  # Only now: these imports take long enough to be interrupted.
  from scorelab.config.importing import make_importable
  from scorelab.config.shipped import root, with_shipped_configs

  if sys.argv[1:2] == ["options"]:
    from scorelab.cli import options

    return options.main(sys.argv[1:])
  make_importable(root())  # configs import each other
  from scorelab.cli import train

  return train.main(with_shipped_configs(sys.argv))


if __name__ == "__main__":
  sys.exit(main())
