"""Report on runs as one page: a sortable table, curves, figures, configs and commands.

  scorelab-report results/ncsn_gmm                          # all runs below a folder
  scorelab-report results/ncsn_gmm/<run id> results/edm_gmm --out=results/two.html
  scorelab-report results --serve 8000                      # watches, and refreshes

The page goes to report.html in the first folder, or to --out. It is one HTML file that works
offline and without a server. Pictures and animations are embedded, scaled so that it stays under 10
MB. Unfinished, failed and damaged runs are included with the data that can be read. With --serve
the page is rendered again whenever files of a run change, for browsers on this machine.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from scorelab.cli.typed import typed


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the page, or serves it; returns 2 if there is nothing to show."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("runs", nargs="+", type=pathlib.Path, help="workdirs, or folders of them")
  parser.add_argument("--out", type=pathlib.Path, help="the page [report.html in the first]")
  parser.add_argument("--serve", type=int, metavar="PORT", help="at http://127.0.0.1:PORT instead")
  args = parser.parse_args(argv)
  from scorelab.report import collect, page, serve

  command = typed("report", argv)
  try:
    if args.serve is not None:
      if args.out is not None:
        raise collect.ReportError("--out and --serve: choose one")
      serve.serve(args.runs, args.serve, command)
      return 0
    text = page.render(collect.read_runs(args.runs), command)
    out = args.out or args.runs[0] / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
  except (collect.ReportError, OSError) as error:
    print(error, file=sys.stderr)
    return 2
  print(out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
