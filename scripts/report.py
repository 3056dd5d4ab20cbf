"""One page of any runs: `scorelab-report` of a checkout.

python scripts/report.py --help
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # works without installing, too
from scorelab.cli.report import main

if __name__ == "__main__":
  sys.exit(main())
