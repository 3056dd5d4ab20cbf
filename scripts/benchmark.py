"""Times scorelab side by side with other libraries and with hand-written loops.

  python scripts/benchmark.py --list
  python scripts/benchmark.py                        # all cases, about two hours on two idle cores
  python scripts/benchmark.py train_ncsn --repeats 40 --only residual   # others stay in the JSON
  python scripts/benchmark.py --quick --out /tmp/q   # tiny sizes, to see that everything runs
  python scripts/benchmark.py --table --reference    # prints the table of docs/speed.md

JSON goes to results/benchmarks/, or to --out; --reference writes the committed one,
results/reference/benchmarks/, from which scripts/tables.py makes the table in docs/speed.md.

Absolute times depend on the machine and its load; ratios of times measured in turn hardly do. Each
side of a match has its own process, which is built and called once before the measurement. Then the
sides take turns, with a pause between, and each round gives one ratio. The output is the median
over the rounds with its quartiles. Shares are fractions of the machine's limits (a matrix product,
memory traffic, a sort), timed in the same rounds.

Sides that need missing libraries are skipped. One requirement of k-diffusion needs NumPy 1, but
k-diffusion itself does not, so it is installed separately:

  pip install -e '.[parity]' && pip install --no-deps clip-anytorch dctorch k-diffusion
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from scripts import outputs
from scripts.benchmarks import table
from scripts.benchmarks.paired_timing import Match, ValuesError, run
from scripts.benchmarks.timed_processes import MissingError, SideError

CASES = {  # each a function `(quick) -> matches` of its module in scripts/benchmarks
  "train_ncsn": "training",
  "train_circles": "training",
  "train_digits": "training",
  "train_unet": "training",
  "ensemble": "ensembles",
  "sample_ddim": "sampling",
  "sample_heun": "sampling",
  "sample_dpmpp_2m": "sampling",
  "sample_langevin": "sampling",
  "sliced_wasserstein": "metrics",
  "max_sliced_wasserstein": "metrics",
  "energy_distance": "metrics",
  "mmd": "metrics",
  "mixture_score": "mixtures",
  "import_time": "startup",
  "first": "startup",
  "checkpoint": "startup",
  "scaling": "scaling",
}
LIBRARIES = (
  *("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "orbax-checkpoint", "diffrax", "pot"),
  *("numpyro", "scikit-learn", "ott-jax", "torch", "diffusers", "k-diffusion"),
)


def case(name: str) -> Any:
  """Returns the function of a case."""
  return getattr(importlib.import_module(f"scripts.benchmarks.{CASES[name]}"), name)


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the installed libraries."""

  def installed() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
      try:
        yield name, metadata.version(name)
      except metadata.PackageNotFoundError:
        continue

  return {"python": platform.python_version(), **dict(installed())}


def print_result(name: str, result: Mapping[str, Any]) -> None:
  """Prints the results of a match, including seconds, which are not stored."""

  def shown(value: Mapping[str, Any], unit: str = "") -> str:
    low, high = value["quartiles"]
    return f"{value['median']:.3g}{unit} ({low:.3g} to {high:.3g})"

  print(f"{name}, {result['match']}, n = {result['n']}, {result['device']}", flush=True)
  for side, ratio in result["ratios"].items():
    print(f"  {side} / {result['ours']} = {shown(ratio)}")
  for side, share in result["shares"].items():
    print(f"  {side}: {shown(share)} of {share['of']}")
  if "exponent" in result:
    last = shown(result["exponent"]["last"])
    print(f"  exponent {shown(result['exponent'])}, between the last two sizes {last}")
  memory = [f"{side} {value / 2**20:.0f}" for side, value in result["memory_bytes"].items()]
  print(f"  MiB: {', '.join(memory)}")
  print("  s:", ", ".join(f"{side} {value:.3g}" for side, value in result["seconds"].items()))
  for bar in result["bars"]:
    met = "met" if bar["met"] else "NOT MET"
    print(f"  bar: {bar['kind']} of {bar['side']}, {bar['bound']:g}: {met}")
  for side, package in result["left_out"].items():
    print(f"  {side} is left out: {package} is missing")
  sys.stdout.flush()


def measure(name: str, matches: list[Match], repeats: int) -> tuple[list[dict[str, Any]], bool]:
  """Returns the results of the matches of a case that ran, and whether all did."""
  results, sound = [], True
  for match in matches:
    try:
      result = run(match, repeats)
    except MissingError as error:
      print(f"{name}, {match.name}: not run, {error} is missing", flush=True)
    except (SideError, ValuesError) as error:
      print(f"{name}, {match.name}: {error}", file=sys.stderr, flush=True)
      sound = False
    else:
      print_result(name, result)
      results.append(result)
  return results, sound


def record(
  name: str, results: list[dict[str, Any]], command: str, before: Mapping[str, Any] | None
) -> dict[str, Any]:
  """Returns the JSON of a case; without seconds on a CPU, which depend on the machine.

  Earlier results of matches that were not measured now are kept if machine and libraries are the
  same.
  """
  on_cpu = results[0]["device"].startswith("cpu")
  told = {"command": command, "date": time.strftime("%Y-%m-%d")}
  fresh = [
    {**{k: v for k, v in r.items() if not (on_cpu and k == "seconds")}, **told} for r in results
  ]
  now = {
    "case": name,
    "device": f"{results[0]['device']}; {platform.machine()}, {os.cpu_count()} cores",
    "versions": versions(),
  }
  measured = {match["match"] for match in fresh}
  same = before is not None and all(before[field] == value for field, value in now.items())
  kept = [match for match in before["matches"] if match["match"] not in measured] if same else []
  return {**now, "matches": kept + fresh}


def main() -> int:
  """Runs the requested cases; returns 1 if one failed."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)} [all]")
  parser.add_argument("--list", action="store_true", help="say what each case times, and end")
  parser.add_argument("--table", action="store_true", help="print the table of the JSON, and end")
  parser.add_argument("--only", metavar="TEXT", help="matches whose name has it: '2,000 points'")
  parser.add_argument("--quick", action="store_true", help="tiny sizes, two rounds")
  parser.add_argument("--repeats", type=int, help="rounds [20]; of long matches fewer")
  outputs.add_arguments(parser, "results/benchmarks", "benchmarks")
  arguments = parser.parse_args()
  for name in arguments.cases:
    if name not in CASES:
      near = difflib.get_close_matches(name, CASES, 1)
      meant = f"; did you mean {near[0]}?" if near else ""
      parser.error(f"{name!r} is not a case{meant} (known: {', '.join(CASES)})")
  if arguments.repeats is not None and arguments.repeats < 1:
    parser.error(f"--repeats {arguments.repeats}, must be at least 1")
  if arguments.quick and arguments.out is None:
    parser.error("--quick needs --out: tiny sizes are no results")
  if arguments.list:
    for name in CASES:
      print(f"{name:24}{case(name).__doc__.splitlines()[0]}")
    return 0
  folder = outputs.RESULTS / "benchmarks"
  out, sound = outputs.directory(parser, arguments, folder, "benchmarks"), True
  if arguments.table:
    try:
      print(table.table(out, list(CASES)))
    except ValueError as error:
      parser.error(str(error))
    return 0
  out.mkdir(parents=True, exist_ok=True)
  repeats = arguments.repeats or (2 if arguments.quick else 20)
  command = shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]])
  for name in arguments.cases or CASES:
    matches = [m for m in case(name)(arguments.quick) if (arguments.only or "") in m.name]
    results, ran = measure(name, matches, repeats)
    sound = sound and ran
    if results:
      file = out / f"{name}.json"
      before = json.loads(file.read_text()) if file.exists() else None
      file.write_text(json.dumps(record(name, results, command, before), indent=2) + "\n")
  return 0 if sound else 1


if __name__ == "__main__":
  sys.exit(main())
