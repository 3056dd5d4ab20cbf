"""One page of any runs: `scorelab-report` of a checkout.

python scripts/report.py --help
"""

import sys

from scorelab.cli.report import main

if __name__ == "__main__":
  sys.exit(main())
