"""Every figure of a reproduced system, each with its numbers as CSV; most from a finished run.

  python scripts/figures.py --list
  python scripts/figures.py ncsn_gmm --workdir results/ncsn_gmm/<run id>
  python scripts/figures.py ncsn_gmm --workdir results/ncsn_gmm/<run id> --only ddim
  python scripts/figures.py schedules
  python scripts/figures.py flow_1d

Figures go to <workdir>/reproduced, those without a run to results/<name>, or to --out; --reference
writes the committed ones, results/reference/<name>. A PNG says its command in its Description, a
GIF and an MP4 in their comment, a CSV in its first line.
"""

import argparse
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from scorelab.errors import ScorelabError
from scripts import outputs
from scripts.drawing import (
  circles,
  digits,
  flow_1d,
  images,
  nine_modes,
  roll,
  schedules,
  score_matching,
  steps,
)
from scripts.drawing.source import Source, open_sheet, open_source

_SCORE_MATCHING = ("hyvarinen_gmm", "hyvarinen_gmm_published", "hutchinson_gmm", "ssm_gmm")
_SCORE_MATCHING += ("ssm_vr_gmm", "dsm_gmm", "dsm_gmm_published")
OF_RUNS = {
  **dict.fromkeys(("ncsn_gmm", "ncsn_gmm_published", "energy_gmm"), nine_modes.FIGURES),
  **dict.fromkeys(("consistency_gmm", "flow_moons"), nine_modes.OF_A_RUN),
  "edm_gmm": nine_modes.OF_A_SCORE,
  **dict.fromkeys(roll.FORMS, roll.FIGURES),
  **dict.fromkeys(_SCORE_MATCHING, score_matching.FIGURES),
  "overfit_gmm": {"overfitting": score_matching.overfitting, **score_matching.FIGURES},
  **dict.fromkeys(("ula_gmm", "mala_gmm"), score_matching.EXACT_FIGURES),
  "one_step_circles": circles.ONE_STEP_FIGURES,
  **dict.fromkeys(("ddpm_circles", "renoise_circles"), circles.FIGURES),
  **dict.fromkeys(
    ("ddpm_circles_published", "renoise_circles_published"), circles.PUBLISHED_FIGURES
  ),
  "memorisation_circles": circles.MEMORISATION_FIGURES,
  **dict.fromkeys(digits.CONFIGS, digits.FIGURES),
  "sbgm_digits_published": digits.PUBLISHED_FIGURES,
  **dict.fromkeys(("ddpm_digits", "dit_digits", "ddpm_patches"), images.FIGURES),
  "cond_digits": digits.GUIDED_FIGURES,
}
OF_NO_RUN = {
  "schedules": schedules.FIGURES,
  "flow_1d": flow_1d.FIGURES,
  "digits": digits.SHEET,
}
FIGURES: dict[str, dict[str, Callable[[Any], None]]] = {**OF_RUNS, **OF_NO_RUN}


def main(argv: list[str] | None = None) -> int:
  """Draws what was asked; 0, or 1 after one line that says what is wrong."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "name",
    nargs="?",
    choices=sorted(FIGURES),
    help="what to draw: a config's name, or what needs no run",
  )
  parser.add_argument("--workdir", type=pathlib.Path, help="a finished run of main.py")
  outputs.add_arguments(parser, "WORKDIR/reproduced or results/NAME", "NAME")
  parser.add_argument("--only", metavar="FIGURE", help="this one alone")
  parser.add_argument("--keys", type=int, default=10, help="sampling keys of 'steps' [10]")
  parser.add_argument("--list", action="store_true", help="list the figures and end")
  args = parser.parse_args(argv)
  if args.list:
    for name in [args.name] if args.name else sorted(FIGURES):
      for figure, draw in FIGURES[name].items():
        print(f"{name:23}  {figure:12}  {(draw.__doc__ or '').splitlines()[0]}")
    return 0
  if args.name is None or (args.name in OF_RUNS) == (args.workdir is None):
    parser.error("give a name and a --workdir, or --list; no --workdir for " + ", ".join(OF_NO_RUN))
  if args.keys < 1:
    parser.error(f"--keys {args.keys}: must be at least 1")
  chosen = [args.only] if args.only else list(FIGURES[args.name])
  if args.only and args.only not in FIGURES[args.name]:
    parser.error(f"--only {args.only}: no such figure (known: {', '.join(FIGURES[args.name])})")
  own = args.workdir / "reproduced" if args.workdir else outputs.RESULTS / args.name
  out = outputs.directory(parser, args, own, args.name)
  others = outputs.REFERENCE if out == own else out.parent
  try:
    if args.name in OF_NO_RUN:
      source = open_sheet(args.name, out, others=others)
    else:
      metrics = steps.METRICS if "steps" in FIGURES[args.name] else ()
      source = open_source(args.name, args.workdir, out, args.keys, metrics, others)
  except ScorelabError as error:
    print(error, file=sys.stderr)
    return 1
  source.out.mkdir(parents=True, exist_ok=True)
  if isinstance(source, Source):
    shutil.copyfile(source.workdir.evaluation, source.out / "evaluation.json")
  for figure in chosen:
    begun = time.monotonic()
    FIGURES[args.name][figure](source)
    print(f"{figure}: {time.monotonic() - begun:.1f} s", flush=True)
  print(source.out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
