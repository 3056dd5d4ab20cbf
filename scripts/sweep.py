"""Runs of one config over grids, random draws or Optuna's search: `scorelab-sweep` of a checkout.

python scripts/sweep.py --help
"""

import sys

from scorelab.cli.sweep import main

if __name__ == "__main__":
  sys.exit(main())
