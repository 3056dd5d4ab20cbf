"""Where kills fall, and a run that is killed again and again."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import random
import signal
import time
from collections.abc import Callable, Mapping

from scorelab.run import PREEMPTED_EXIT_CODE
from scripts.disturbing.runs import TICK, BrokenError, Lab, Process, count_lines, saved_step

_TRAINING = ("training", "saving", "training", "saving", "starting")
_AFTER = ("sampling", "evaluating", "drawing")


@dataclasses.dataclass(frozen=True)
class Kill:
  """The moment of a kill.

  Attributes:
    phase: what the run is to be at.
    progress: how much of the training is to be logged by then, from 0 to 1.
    delay: when in the phase, as a share of the time that it takes undisturbed.
  """

  phase: str
  progress: float
  delay: float


@dataclasses.dataclass(frozen=True)
class Timetable:
  """What an undisturbed run takes.

  Attributes:
    seconds: that each phase takes; of saving, a checkpoint.
    lines: of metrics.jsonl.
  """

  seconds: Mapping[str, float]
  lines: int


def plan(number: int, times: Timetable, rng: random.Random) -> list[Kill]:
  """Random moments in all phases: three in five while it trains, each further on, then the others.

  So the run gets on, however often it is killed and however rarely it saves.
  """
  early, late = ([p for p in phases if p in times.seconds] for phases in (_TRAINING, _AFTER))
  training = -(-3 * number // 5) if late else number
  kills = [
    Kill(early[i % len(early)], (i + rng.random()) / (training + 1), rng.random())
    for i in range(training)
  ]
  after = [late[i % len(late)] for i in range(number - training)]
  rng.shuffle(after)
  return kills + [Kill(phase, 1.0, rng.random()) for phase in after]


def watch(process: Process) -> Timetable:
  """Waits for a run that nobody disturbs."""
  seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
  last, saves, before = time.monotonic(), 0, ""
  while process.popen.poll() is None:
    time.sleep(TICK)
    phase, now = process.phase(), time.monotonic()
    seconds[phase] += min(now - last, 0.1)  # more than that, and we were not running either
    saves += phase == "saving" != before
    before, last = phase, now
  if process.wait():
    raise BrokenError(f"undisturbed it fails: {' | '.join(process.said()[-3:])}")
  seconds["saving"] /= max(saves, 1)
  lines = count_lines(process.workdir)
  seconds["training"] /= max(lines, 1)
  return Timetable(seconds, lines)


def strike(process: Process, kill: Kill, times: Timetable, number: signal.Signals) -> str | None:
  """Kills a process as planned; the phase that it was at, None where it ended before."""
  due = int(kill.progress * times.lines) if kill.phase in ("training", "saving") else 0
  if not process.reaches(kill.phase, due):
    return None
  time.sleep(kill.delay * times.seconds.get(kill.phase, 0.0))
  phase = process.phase()
  if process.popen.poll() is not None:
    return None
  code = process.end(number)
  if code not in (0, -number, PREEMPTED_EXIT_CODE) or "Traceback" in "".join(process.said()):
    said = " | ".join(process.said()[-3:])
    raise BrokenError(f"exit code {code} after {number.name} while {phase}: {said}")
  return None if code == 0 else phase


def kill_again_and_again(
  lab: Lab,
  folder: pathlib.Path,
  kills: list[Kill],
  times: Timetable,
  number: signal.Signals,
  say: Callable[[str], object],
  ahead: int = 0,
) -> list[str]:
  """Starts a run and kills it, as often as planned, and lets it end.

  Args:
    lab: how runs are started.
    folder: empty, of the run.
    kills: when.
    times: of an undisturbed run.
    number: the signal.
    say: is told of each kill.
    ahead: seconds by which the clock jumps at each start.

  Returns:
    The phase of each kill; fewer than planned where the run has ended too early.

  Raises:
    BrokenError: a process did not go on from the newest checkpoint, lost a line or failed.
  """
  struck: list[str] = []
  for kill in kills:
    saved = saved_step(folder / "run")
    process = lab.start(folder, ahead=len(struck) * ahead)
    phase = strike(process, kill, times, number)
    process.must_have_gone_on_from(saved)
    if phase is None:
      say(f"it has ended before the next kill, planned for {kill.phase}")
      return struck
    struck.append(phase)
    at = f"after {count_lines(process.workdir)} lines, step {saved_step(process.workdir)} saved"
    say(f"kill {len(struck)} of {len(kills)} by {number.name} while {phase}, {at}")
  saved = saved_step(folder / "run")
  last = lab.start(folder, ahead=len(kills) * ahead)
  if last.wait():
    raise BrokenError(f"the last start fails: {' | '.join(last.said()[-3:])}")
  last.must_have_gone_on_from(saved)
  return struck
