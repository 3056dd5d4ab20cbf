"""Stands in for main.py in the tests of sweeps: leaves what a run leaves, in tenths of a second.

Its "energy distance" is the square of the learning rate, plus eta and the seed. A learning rate of
0.5 fails, a batch of 7 waits for SIGTERM, a batch of 8 takes a second, and a batch of 9 kills
itself. Every time that it has trained or evaluated it says so in WORKDIR/worked.
"""

import json
import os
import pathlib
import signal
import sys
import time

from scorelab.config.command_line import read_config

arguments = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
typed = [f"--{k}={v}" for k, v in arguments.items() if k.startswith("config.")]
config = json.loads(read_config(arguments["config"], typed).to_json())
workdir, mode = pathlib.Path(arguments["workdir"]), arguments.get("mode", "train_and_eval")
rate, batch, num_steps = (
  config["optimizer"]["learning_rate"],
  config["training"]["batch_size"],
  config["training"]["num_steps"],
)


def saved(number, frame):
  (workdir / "saved").touch()
  sys.exit(75)


def worked(what):
  with (workdir / "worked").open("a") as file:
    file.write(what + "\n")


signal.signal(signal.SIGTERM, saved)
if (workdir / "DONE").exists():
  sys.exit(0)
workdir.mkdir(parents=True, exist_ok=True)
if rate == 0.5:
  sys.exit("first line\nno run has learned at this rate\n")
(workdir / "config.json").write_text(json.dumps({"config": config, "overrides": {}}))
checkpoint = workdir / "checkpoints" / f"{num_steps:09d}"
if mode != "eval" and not checkpoint.exists():
  if batch == 7:
    time.sleep(60)
  if batch == 8:
    time.sleep(1)
  if batch == 9:
    os.kill(os.getpid(), signal.SIGKILL)
  checkpoint.mkdir(parents=True)
  (checkpoint / "state").write_text(str(rate))
  (workdir / "metrics.jsonl").write_text(json.dumps({"step": num_steps, "loss": rate}) + "\n")
  (workdir / "timings.jsonl").touch()
  worked("trained")
if mode != "train":
  value = float((checkpoint / "state").read_text()) ** 2 + (config["sampler"]["eta"] or 0)
  numbers = {"value": value + config["seed"], "sem": 0.25}
  row = {"sampler": config["sampler"]["name"], "options": {}, "num_steps": 16, "nfe": 16}
  row["metrics"] = {"energy_distance": numbers}
  (workdir / "evaluation.json").write_text(json.dumps({"rows": [row], "girsanov": {"total": 3}}))
  worked("evaluated")
  (workdir / "DONE").touch()
