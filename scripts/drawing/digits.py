"""The figures of score models of 8 by 8 digits: what `scripts/figures.py sbgm_digits` draws.

And those of `scripts/figures.py digits`, which puts the processes side by side from what the
configs' own figures have left.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from scorelab.evaluation import figures as summary
from scorelab.likelihood.flow import log_likelihood
from scorelab.losses.variational import bits_per_dim, bound_terms
from scorelab.metrics import class_probabilities
from scorelab.plotting import comparisons, curves, images, read_csv, save, write_csv
from scorelab.runs.files import read_jsonl
from scorelab.schedules import SigmaPower, karras, uniform_log_snr
from scorelab.targets import DequantisedDigits, Digits
from scorelab.typing import Array, Key, Params
from scripts.drawing import nine_modes
from scripts.drawing.images import draw_neighbours
from scripts.drawing.source import Sheet, Source, target_of

CONFIGS = (
  *("sbgm_digits_published", "sbgm_digits", "sbgm_digits_sigma25"),
  *("vp_digits", "subvp_digits"),
)
_SIGMA_MIN = 0.005  # where the likelihood ends: a 25th of a bin


def stopping(source: Source) -> None:
  """The training and validation loss, and where the best checkpoint is: early stopping."""
  experiment = source.experiment
  history = read_jsonl(source.workdir.metrics)
  repeats, patience = (source.config.training[k] for k in ("validation_repeats", "patience"))
  text = f"validation: {len(experiment.validation['x']) // repeats} held-out digits, each at "
  text += f"{repeats} levels" + (
    f"; stopped after {patience} without a better one" * bool(patience)
  )
  save(curves.overfitting(history, text), source.out / "stopping.png", source.command)
  rows = [{name: line.get(name) for name in ("step", "loss", "val_loss")} for line in history]
  write_csv(source.out / "stopping.csv", rows, source.command)


def samples(source: Source) -> None:
  """Plots real digits next to those of each row, and a classifier's judgement of them."""
  save(summary.albums_figure(source.workdir), source.out / "samples.png", source.command)
  target = target_of(source.experiment, Digits)
  rows = []
  for name, x in _sets(source).items():
    probabilities = class_probabilities(x, target)
    confident = probabilities.max(1) > 0.9
    shares = np.bincount(probabilities[confident].argmax(1), minlength=10) / len(x)
    by_class = {f"digit_{i}": float(share) for i, share in enumerate(shares)}
    row = {"samples": name, "number": len(x), "confident": float(confident.mean())}
    rows.append(row | by_class)
  write_csv(source.out / "samples.csv", rows, source.command)


def memorisation(source: Source) -> None:
  """Plots distances of samples to the nearest training digit, against test digits; and pairs."""
  # Pixel noise within a bin sets samples of a dequantised model apart from every image.
  text = "training digits; samples rounded to the 17 pixel values"
  draw_neighbours(source, _sets(source), "memorisation", text)


def _sets(source: Source) -> dict[str, np.ndarray]:
  """Test digits and each row's samples, rounded to the lattice of pixel values; [n, 8, 8, 1]."""
  target = target_of(source.experiment, Digits)
  width, test = target.spacing, np.asarray(target.splits["test"])
  with np.load(source.workdir.samples) as arrays:
    drawn = {name: arrays[name] for name in summary.kept_rows(source.workdir)}
  low, high = test.min(), test.max()
  lattice = {
    name: np.clip(low + width * np.round((x - low) / width), low, high) for name, x in drawn.items()
  }
  return {"test digits": test, **lattice}


def guided(source: Source, number: int = 6) -> None:
  """Digits by the requested class, a sheet for each guidance; and the share that is of it."""
  with np.load(source.workdir.samples) as arrays:
    asked = arrays["labels"]
    drawn = {name: arrays[name] for name in summary.kept_rows(source.workdir)}
  target = target_of(source.experiment, Digits)
  number = min(number, *np.bincount(asked, minlength=target.num_classes))
  pages, rows = [], []
  for row, (name, x) in zip(source.experiment.evaluation.rows, drawn.items(), strict=True):
    right = class_probabilities(x, target).argmax(1) == asked
    # Column by column: the first of each class, as they came.
    columns = [x[asked == label][:number] for label in range(target.num_classes)]
    sheet = np.stack(columns, 1).reshape(-1, *x.shape[1:])
    title = ", ".join(
      f"{field.removeprefix('guidance_')} {value:g}"
      for field, value in row.options.items()
      if field.startswith("guidance_")
    )
    pages.append(images.Album(sheet, f"{title}: {right.mean():.1%}"))
    shares = {f"digit_{c}": float(right[asked == c].mean()) for c in range(target.num_classes)}
    rows.append({"row": name, "number": len(x), "right": float(right.mean())} | shares)
  text = (
    "columns: the requested digit, 0 to 9; the first samples of the evaluation's first key, as "
    f"they came; share of {len(asked)} in which a classifier of real digits sees it"
  )
  figure = images.albums(pages, text, target.num_classes)
  save(figure, source.out / "guided.png", source.command)
  write_csv(source.out / "guided.csv", rows, source.command)


class Likelihood(NamedTuple):
  """Bits a dimension of the test digits by some way, one for each, and calls of the network."""

  name: str
  bits: np.ndarray
  nfe: int


def likelihood(source: Source, num_steps: int = 24, num_terms: int = 400) -> None:
  """Bits a dimension of test digits: exact on the probability flow, and the variational bound."""
  target = target_of(source.experiment, DequantisedDigits)
  found = bits_of(source, num_steps, num_terms)
  text = (
    f"{len(found[0].bits)} test digits, each pixel spread once over its bin of width "
    f"{target.bin_width:g};\nexact: divergence over all 64 axes, {num_steps} Heun steps down to "
    f"sigma / alpha = {_SIGMA_MIN:g}; bound: {num_terms} terms"
  )
  uniform = np.log2(17)
  figure = comparisons.distributions(
    {row.name: row.bits for row in found}, text, "bits a dimension"
  )
  save(figure, source.out / "likelihood.png", source.command)
  rows = [
    {
      "by": row.name,
      "bits_per_dim": float(row.bits.mean()),
      "sem": float(scipy.stats.sem(row.bits)),
      "nfe": row.nfe,
    }
    for row in found
  ]
  rows.append({"by": "17 equal values", "bits_per_dim": float(uniform), "sem": 0.0, "nfe": 0})
  write_csv(source.out / "likelihood.csv", rows, source.command)


def bits_of(source: Source, num_steps: int, num_terms: int) -> list[Likelihood]:
  """Bits per dimension of all test digits, dequantised once: several estimates and the bound.

  They are exact, by probes and with more steps, the bound, and, for comparison, that of the
  Gaussian with the moments of the dequantised training digits.
  """
  target = target_of(source.experiment, DequantisedDigits)
  schedule = source.experiment.schedule
  noise_key, probe_key, bound_key, fit_key = jax.random.split(source.key(20), 4)
  x = target.dequantise(noise_key, target.splits["test"])
  to_bits = functools.partial(bits_per_dim, dim=target.dim, bin_width=target.bin_width)

  @functools.partial(jax.jit, static_argnames=("num_steps", "divergence"))
  def flow(params: Params, key: Key, *, num_steps: int, divergence: str) -> Array:
    grid = karras(schedule, num_steps, sigma_min=_SIGMA_MIN, to_data=False)
    predict, end = source.experiment.parameterization.bind(params), grid[num_steps]
    found = log_likelihood(
      key,
      predict,
      end.alpha * x,
      grid,
      divergence=divergence,
      method="heun",
      num_probes=2,
      data_std=target.scale,
    )
    return found.log_prob + target.dim * jnp.log(end.alpha)

  @jax.jit
  def bound(params: Params) -> Array:
    grid = uniform_log_snr(schedule, num_terms, sigma_min=_SIGMA_MIN)
    return bound_terms(bound_key, source.experiment.parameterization.bind(params), x, grid).total

  train = target.dequantise(fit_key, target.splits["train"]).reshape(-1, target.dim)
  fit = scipy.stats.multivariate_normal(train.mean(0), np.cov(train, rowvar=False))
  exact = flow(source.params, probe_key, num_steps=num_steps, divergence="exact")
  probed = flow(source.params, probe_key, num_steps=2 * num_steps, divergence="hutchinson")
  return [
    Likelihood("exact", np.asarray(to_bits(-exact)), 2 * num_steps),
    Likelihood("two probes, twice the steps", np.asarray(to_bits(-probed)), 4 * num_steps),
    Likelihood("bound", np.asarray(to_bits(bound(source.params))), num_terms),
    Likelihood(
      "Gaussian fit", np.asarray(to_bits(-fit.logpdf(np.asarray(x).reshape(len(x), -1)))), 0
    ),
  ]


def sigma(sheet: Sheet, bases: Sequence[float] = (1.01, 2.0, 5.0, 10.0, 25.0)) -> None:
  """The noise std of g = s^t over time, for several s."""
  t = np.linspace(0, 1, 201)
  lines = {f"s = {base:g}": np.asarray(SigmaPower(base).sigma(jnp.asarray(t))) for base in bases}
  text = "sigma(t)^2 = (s^(2 t) - 1) / (2 log s); the digits' std is 0.54 about their mean"
  figure = comparisons.lines(t, lines, text, "time t", "noise std sigma")
  save(figure, sheet.out / "sigma.png", sheet.command)
  rows = [
    {"t": float(t[i])} | {name: float(values[i]) for name, values in lines.items()}
    for i in range(0, len(t), 10)
  ]
  write_csv(sheet.out / "sigma.csv", rows, sheet.command)


def processes(sheet: Sheet) -> None:
  """Frechet distance, confident share and bits a dimension of all configs of digits."""
  rows = [row for name in CONFIGS for row in _summary(sheet, name)]
  if not rows:
    print(f"processes: not drawn, {sheet.others} has the results of no config of digits")
    return
  panels = {
    "Frechet distance": ("frechet", "frechet_sem", "frechet_floor"),
    "confident share / real": ("confident_share", "confident_share_sem", None),
    "bits a dimension, exact": ("bits_per_dim", "bits_per_dim_sem", None),
  }
  text = (
    "2,000 samples v 450 test digits, mean and standard error over keys; black: training digits"
  )
  save(comparisons.table(rows, panels, text), sheet.out / "processes.png", sheet.command)
  write_csv(sheet.out / "processes.csv", rows, sheet.command)


def _summary(sheet: Sheet, name: str) -> list[dict[str, Any]]:
  """The best row of a config by Frechet distance, and its bits; none where it was not drawn."""
  folder = sheet.others / name
  if not (folder / "evaluation.json").exists():
    return []
  result = json.loads((folder / "evaluation.json").read_text())
  best = min(result["rows"], key=lambda row: row["metrics"]["frechet"]["value"])
  row: dict[str, Any] = {"config": name, "sampler": best["sampler"], "nfe": best["nfe"]}
  for metric in ("frechet", "confident_share", "class_count"):
    numbers = best["metrics"][metric]
    row |= {metric: numbers["value"], f"{metric}_sem": numbers["sem"]}
    row[f"{metric}_floor"] = numbers["floor"]
  exact: dict[str, Any] = {}
  if (folder / "likelihood.csv").exists():
    exact = {r["by"]: r for r in read_csv(folder / "likelihood.csv")}["exact"]
  return [row | {"bits_per_dim": exact.get("bits_per_dim"), "bits_per_dim_sem": exact.get("sem")}]


PUBLISHED_FIGURES: dict[str, Callable[[Source], None]] = {
  "stopping": stopping,
  "samples": samples,
  "budget": nine_modes.budget,
  "memorisation": memorisation,
}
FIGURES: dict[str, Callable[[Source], None]] = {**PUBLISHED_FIGURES, "likelihood": likelihood}
GUIDED_FIGURES: dict[str, Callable[[Source], None]] = {
  "guided": guided,
  "stopping": stopping,
  "memorisation": memorisation,
}
SHEET: dict[str, Callable[[Sheet], None]] = {"sigma": sigma, "processes": processes}
