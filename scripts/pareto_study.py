"""Study of scripts/pareto.py: targets, samplers, budgets, grids, and stored results."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import ncsn_gmm
from scorelab import training
from scorelab.experiment.spec import Experiment
from scorelab.metrics import METRICS, Reference, max_sliced_wasserstein
from scorelab.runs.files import append_jsonl, read_jsonl
from scorelab.runs.signals import StopFlag
from scorelab.schedules import Grid, VarianceExploding, karras, uniform_log_snr
from scorelab.targets.gaussian_mixture import GaussianMixture
from scorelab.typing import Array, Key
from scripts import studies


class Protocol(NamedTuple):
  """Protocol of the study: sizes, disjoint keys, budgets, and the adaptive solver's tolerances."""

  num_samples: int = 2000
  num_reference: int = 10_000
  num_projections: int = 1000
  pilot_keys: range = range(1000, 1003)
  keys: range = range(10)
  headline_keys: range = range(100, 190)
  budgets: tuple[int, ...] = (4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128)
  tolerances: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01, 0.001)


FAST = Protocol(200, 400, 50, range(1000, 1001), range(2), range(100, 103), (5, 8), (0.1,))


class Target(NamedTuple):
  """A target, with settings of its grids and its network.

  Attributes:
    settings: config.target.
    sigma_max: about ten times the std of its widest direction.
    width: the std of a mode, or what is like it.
    train_steps: of its network.
  """

  settings: dict[str, Any]
  sigma_max: float
  width: float
  train_steps: int


TARGETS = {
  "nine_modes": Target({"name": "nine_modes"}, 80.0, 0.32, 6000),
  "ring": Target({"name": "ring"}, 20.0, 0.35, 4000),
  "checkerboard": Target({"name": "checkerboard"}, 25.0, 0.3, 4000),
  "grid25_8": Target({"name": "grid25", "dim": 8}, 250.0, 1.0, 4000),
  "grid25_80": Target({"name": "grid25", "dim": 80}, 750.0, 1.0, 4000),
}


class Entry(NamedTuple):
  """A sampler of the table.

  Attributes:
    sampler: its name in SAMPLERS, or adaptive_ode.
    calls: evaluations of a step.
    last: those of the step onto the data.
    options: of the sampler.
  """

  sampler: str
  calls: int = 1
  last: int = 1
  options: Mapping[str, float] = types.MappingProxyType({})

  @property
  def label(self) -> str:
    """For the table: the name and the options."""
    return " ".join([self.sampler, *(f"{k}={v:g}" for k, v in self.options.items())])

  def steps(self, budget: int) -> int:
    """The most steps whose evaluations are within the budget, at most."""
    return (budget - self.last) // self.calls + 1


ENTRIES = (
  Entry("dpmpp_2m"),
  Entry("ipndm"),
  Entry("deis"),
  Entry("ddim"),
  Entry("ddim", options={"eta": 1.0}),
  Entry("unipc", options={"order": 3}),
  Entry("heun", 2),
  Entry("dpmpp_3m"),
  Entry("dpmpp_2m_sde"),
  Entry("lms"),
  Entry("dpm_solver_2", 2),
  Entry("dpmpp_singlestep"),
  Entry("dpmpp_2s", 2),
  Entry("euler_maruyama"),
  Entry("dpmpp_3m_sde"),
  Entry("rk4", 4),
  Entry("predictor_corrector", 2, 2),
  Entry("dpmpp_sde", 2),
  Entry("adaptive_ode"),
)


class Cell(NamedTuple):
  """A sampler at a budget, 0 for the adaptive one, whose options say its price."""

  entry: Entry
  budget: int
  num_steps: int
  options: dict[str, float]

  @property
  def name(self) -> str:
    """Name that identifies it in the stored rows."""
    return " ".join([self.entry.label, str(self.budget), *map(str, self.options.values())])


def cells_of(entry: Entry, protocol: Protocol) -> Iterator[Cell]:
  """An entry's cells; budgets that allow no step more than the one before have none."""
  if entry.sampler == "adaptive_ode":
    for tolerance in protocol.tolerances:
      yield Cell(entry, 0, 2, {"rtol": tolerance, "atol": tolerance})
    return
  before = 1
  for budget in protocol.budgets:
    if (num_steps := entry.steps(budget)) > before:
      yield Cell(entry, budget, num_steps, {})
    before = num_steps


def grids(target: Target, num_steps: int) -> dict[str, Grid]:
  """The four that are tried, by name."""
  schedule = VarianceExploding(0.02, target.sigma_max)
  return {
    f"{name} to {part}": make(schedule, num_steps, sigma_min=target.width * part)
    for name, make in (("karras", karras), ("log-SNR", uniform_log_snr))
    for part in (0.16, 0.5)
  }


def configure(target: Target, fast: bool) -> ConfigDict:
  """The config that a target's network is trained by."""
  config = ncsn_gmm.get_config("fast" if fast else "")
  config.target.update(target.settings)
  config.schedule.sigma_max = target.sigma_max
  if (dim := target.settings.get("dim")) is not None:  # the features' phases vary as in the plane
    config.network.point_scale = round(4 * (2 / dim) ** 0.5, 3)
  config.evaluation.update(metrics=("max_sliced_wasserstein", "energy_distance"), rows=())
  if not fast:
    config.training.update(num_steps=target.train_steps)
  return config


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
  """A target at work: its law, its network, its rows.

  Attributes:
    name: in TARGETS.
    target: its settings.
    experiment: its network's.
    models: by score, 'exact' or 'learned', what `make_run`'s programs take of it.
    metrics: what is measured, by name.
    protocol: how.
    path: the file of its rows.
  """

  name: str
  target: Target
  experiment: Experiment
  models: dict[str, Any]
  metrics: dict[str, Any]
  protocol: Protocol
  path: pathlib.Path

  @functools.cached_property
  def rows(self) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Stored rows, by score, cell and number of keys."""
    found = read_jsonl(self.path) if self.path.exists() else []
    return {(row["score"], row["cell"], row["num_keys"]): row for row in found}

  # All subjects share it: with fewer places than keys in turn, 5 * 13, none would ever be found.
  @functools.lru_cache(maxsize=80)  # noqa: B019 (a subject lives as long as the script)
  def draw(self, number: int) -> tuple[Key, Array, Reference, np.ndarray]:
    """Returns a key's sampler key, the start's unit noise, the reference, and exact samples."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), number), 5)
    law = self.experiment.target
    start = jax.random.normal(keys[0], (self.protocol.num_samples, *law.event_shape))
    reference = np.asarray(law.sample(keys[1], self.protocol.num_reference))
    exact = np.asarray(law.sample(keys[2], self.protocol.num_samples))
    return keys[3], start, Reference(reference, law, capacity=2), exact

  def measure(self, number: int, x: np.ndarray) -> dict[str, float]:
    """Every metric of samples drawn with this key."""
    key = jax.random.fold_in(jax.random.key(2), number)
    reference = self.draw(number)[2]
    return {name: metric(key, x, reference) for name, metric in self.metrics.items()}

  def keep(self, row: dict[str, Any], values: list[dict[str, float]]) -> None:
    """Writes a row: of every metric, its values by key."""
    by_metric = {
      name: [float(v[name]) if np.isfinite(v[name]) else None for v in values]
      for name in self.metrics
    }
    row = {"target": self.name, **row, "num_keys": len(values), "values": by_metric}
    append_jsonl(self.path, row)
    self.rows[row["score"], row["cell"], row["num_keys"]] = row


def open_subject(name: str, runs: pathlib.Path, protocol: Protocol) -> Subject:
  """Trains a target's network, unless that is done; of the fast protocol, hardly."""
  target = TARGETS[name]
  config = configure(target, protocol is FAST)
  folder = runs / "networks" / name
  with studies.opened(config, folder) as (experiment, workdir), StopFlag() as stop:
    params = training.evaluated_params(training.train(experiment, workdir, stop))
  law, models = experiment.target, {"learned": (params, jnp.asarray(experiment.target.scale))}
  names = ["max_sliced_wasserstein", "energy_distance"]
  if isinstance(law, GaussianMixture):
    models = {"exact": padded(law, 9)} | models
    names += ["mode_weight_tv", "within_mode_std"]
  metrics: dict[str, Any] = {metric: METRICS[metric] for metric in names}
  metrics["max_sliced_wasserstein"] = functools.partial(
    max_sliced_wasserstein, num_projections=protocol.num_projections
  )
  return Subject(name, target, experiment, models, metrics, protocol, runs / f"{name}.jsonl")


def padded(law: GaussianMixture, size: int) -> GaussianMixture:
  """The same mixture with components without weight, up to so many: one shape, one program."""
  missing = max(0, size - len(law.means))
  weights, means, covariances = law.weights, law.means, law.covariances
  return GaussianMixture(
    np.pad(weights, (0, missing)),
    np.pad(means, ((0, missing), (0, 0))),
    np.pad(covariances, (0, missing), constant_values=1.0),
  )
