"""Writes a run's network as safetensors: `scorelab-export` of a checkout.

python scripts/export.py --help
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # works without installing, too
from scorelab.cli.export import main

if __name__ == "__main__":
  sys.exit(main())
