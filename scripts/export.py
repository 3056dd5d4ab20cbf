"""Writes a run's network as safetensors: `scorelab-export` of a checkout.

python scripts/export.py --help
"""

import sys

from scorelab.cli.export import main

if __name__ == "__main__":
  sys.exit(main())
