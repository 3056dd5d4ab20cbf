"""Signals, in processes of their own: what is ended at once, what waits, and the codes."""

import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from scorelab.runs.signals import Preempted, StopFlag
with StopFlag({line!r}) as stop:
  stop.unsaved = {unsaved}
  print("ready", flush=True)
  try:
    while True:
      time.sleep(0.01)
      stop.check()
  except Preempted:
    print("saved", flush=True)
    sys.exit(75)
"""


def run(numbers, line=None, unsaved=False):
  program = PROGRAM.format(line=line, unsaved=unsaved)
  with subprocess.Popen(
    [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
      time.sleep(0.2)
      process.send_signal(number)
    out, err = process.communicate(timeout=60)
  return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_one_signal_is_one_line_and_75(number):
  """At once where nothing would be lost, else when the work asks."""
  assert run([number], line="stopped") == (75, "", "stopped\n")
  assert run([number], line="stopped", unsaved=True) == (75, "saved\n", "")
  assert run([number]) == (75, "saved\n", "")


def test_a_second_interrupt_ends_at_once():
  """Also while the main thread is in a call that lets no Python handler run: `sleep` resumes."""
  stuck = PROGRAM.replace("time.sleep(0.01)\n      stop.check()", "time.sleep(30)")
  with subprocess.Popen(
    [sys.executable, "-c", stuck.format(line="stopped", unsaved=True)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
  assert (process.returncode, err) == (130, "interrupted twice: ended without saving\n")
  assert time.monotonic() - begun < 10


AT_AN_IMPORT = """
import os, runpy, sys

class Interrupt:
  @staticmethod
  def find_spec(name, path=None, target=None):
    if name == "{place}":
      os.kill(os.getpid(), {number})

assert "{place}" not in sys.modules
sys.meta_path.insert(0, Interrupt)
sys.argv = ["{program}", "--config=configs/ncsn_gmm.py:fast", "--workdir={workdir}"]
runpy.{run}("{program}", run_name="__main__")
"""
PLACES = ("pathlib", "absl", "ml_collections", "configs", "jax", "scorelab.experiment.build")


@pytest.mark.parametrize("program", ["main.py", "scorelab"])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_during_an_early_import_is_one_line_and_75(program, place, tmp_path):
  """From main.py's first import of anything but the handler on."""
  number = int(random.choice([signal.SIGINT, signal.SIGTERM]))
  run = "run_path" if program == "main.py" else "run_module"
  given = {"place": place, "number": number, "program": program, "run": run}
  code = AT_AN_IMPORT.format(**given, workdir=tmp_path / "run")
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (75, "main.py: stopped before the run began\n")
  assert not (tmp_path / "run").exists()


def wait_for_the_handler(process):
  """Returns once the process catches SIGTERM, as Python itself does not."""
  status = pathlib.Path(f"/proc/{process.pid}/status")
  while process.poll() is None:
    caught = int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16)
    if caught >> (signal.SIGTERM - 1) & 1:
      return
    time.sleep(0.001)


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_signals_at_five_random_early_times_are_one_line_and_75(tmp_path):
  """Within two seconds of main.py's first line; before it Python answers for itself."""
  for i in range(5):
    number = (signal.SIGINT, signal.SIGTERM)[i % 2]
    delay = (0.0, *(random.uniform(0, 2) for _ in range(4)))[i]
    with subprocess.Popen(
      [sys.executable, "main.py", "--config=configs/ncsn_gmm.py:fast", f"--workdir={tmp_path}/{i}"],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    ) as process:
      wait_for_the_handler(process)
      time.sleep(delay)
      process.send_signal(number)
      out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (75, ""), (number, delay, err)
    assert re.fullmatch(r"(main.py: stopped before the run began|.*: stopped and saved; .*)\n", err)


def test_after_the_run_the_line_says_so():
  """The handler of the start is in force again, with other words."""
  code = "import os, signal, time\nfrom scorelab import early_stop\n"
  code += "from scorelab.runs.signals import StopFlag\n"
  code += "early_stop.install('before')\nwith StopFlag('during'):\n  early_stop.set_line('after')\n"
  code += "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(5)\n"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (75, "after\n")
