"""Signals, in processes of their own: what is ended at once, what waits, and the codes."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from scorelab.stopping import Preempted, StopFlag
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
