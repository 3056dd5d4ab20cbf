"""Plans moments for kills, and kills a run repeatedly."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import random
import signal
import time

from scorelab.runs.signals import PREEMPTED_EXIT_CODE
from scripts.chaos_trials.runs import RUN, BrokenError, Process, count_lines, saved_step
from scripts.chaos_trials.trial import Timetable, Trial, print_line

_TRAINING = ("training", "saving", "training", "saving", "starting")
_AFTER = ("sampling", "evaluating", "drawing")


@dataclasses.dataclass(frozen=True)
class Kill:
  """Moment of a kill.

  Attributes:
    phase: what the run is to be at.
    progress: how much of the training is to be logged by then, from 0 to 1.
    delay: when in the phase, as a share of the time that it takes undisturbed.
  """

  phase: str
  progress: float
  delay: float


def plan(number: int, times: Timetable, rng: random.Random) -> list[Kill]:
  """Draws random moments in all phases: three in five during training, each later than the last.

  So the run makes progress, however often it is killed and however rarely it saves.
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


def signal_at(process: Process, kill: Kill, times: Timetable, number: signal.Signals) -> str | None:
  """Kills a process as planned; returns its phase at that moment, or None if it had ended."""
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


def kill_repeatedly(
  trial: Trial, folder: pathlib.Path, due: list[Kill], number: signal.Signals, ahead: int = 0
) -> list[str]:
  """Starts a run and kills it at each due moment, then lets it finish.

  Args:
    trial: of which this is a run.
    folder: empty, of the run.
    due: the kills.
    number: the signal.
    ahead: seconds by which the clock jumps at each start.

  Returns:
    The phase of each kill; fewer than planned where the run has ended too early.

  Raises:
    BrokenError: a process did not resume from the newest checkpoint, lost a line or failed.
  """
  struck: list[str] = []
  for kill in due:
    saved = saved_step(folder / RUN)
    process = trial.lab.start(folder, ahead=len(struck) * ahead)
    phase = signal_at(process, kill, trial.times, number)
    process.require_resumed_from(saved)
    if phase is None:
      print_line(f"it has ended before the next kill, planned for {kill.phase}")
      return struck
    struck.append(phase)
    at = f"after {count_lines(process.workdir)} lines, step {saved_step(process.workdir)} saved"
    print_line(f"kill {len(struck)} of {len(due)} by {number.name} while {phase}, {at}")
  saved = saved_step(folder / RUN)
  last = trial.lab.start(folder, ahead=len(due) * ahead)
  last.require_success()
  last.require_resumed_from(saved)
  return struck


def kill_runs(
  trial: Trial, name: str, kills: int, number: signal.Signals, rng: random.Random, ahead: int = 0
) -> None:
  """Kills `kills` times; if a run ends too early, the remaining kills go to the next run."""
  due, phases, rounds = plan(kills, trial.times, rng), [], 0
  while due:
    rounds += 1
    folder = trial.folder(f"{name}-{rounds}")
    struck = kill_repeatedly(trial, folder, due, number, ahead)
    trial.compare(folder)
    if not struck:
      raise BrokenError(f"no kill falls into {due[0].phase}")
    phases, due = [*phases, *struck], due[len(struck) :]
  counted = ", ".join(f"{phase} {n}" for phase, n in collections.Counter(phases).items())
  print_line(f"{name}: {len(phases)} kills by {number.name} in {rounds} runs, while {counted}")
