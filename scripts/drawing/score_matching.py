"""The figures of a score at one level: how it was learned, how wrong it is, where it drives chains.

What `scripts/figures.py` draws for ula_gmm, mala_gmm, hyvarinen_gmm, dsm_gmm and their kin.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scorelab.evaluation import figures as summary
from scorelab.experiment.row import Row
from scorelab.experiment.spec import Experiment
from scorelab.metrics import mode_weight_tv, mode_weights, off_mode_share
from scorelab.metrics.modes import nearest_modes
from scorelab.plotting import animations, curves, fields, save, style, trajectories, write_csv
from scorelab.predictions import Exact, noised
from scorelab.runs.files import read_jsonl
from scorelab.samplers.diagnostics import effective_sample_size, split_rhat
from scorelab.schedules import Level
from scorelab.targets import GaussianMixture, truth_of
from scorelab.typing import Array, Key, Params
from scripts import published
from scripts.drawing import nine_modes
from scripts.drawing.source import Source, target_of

# The mean loss of the published notebook's code over its last 100 steps.
_PUBLISHED_LOSS = {
  name: published.get(name, nine_modes.LAST_LOSS)
  for name in ("hyvarinen_gmm_published", "dsm_gmm_published")
}

_NAMES = {"ula": "ULA", "mala": "MALA", "underdamped_langevin": "underdamped Langevin"}


def loss(source: Source) -> None:
  """The training and validation loss, and the least possible one."""
  lines = {"optimum": optimum(source.experiment, source.key(10))}
  if source.name in _PUBLISHED_LOSS:
    lines["published notebook's code"] = _PUBLISHED_LOSS[source.name]
  figure = summary.loss_figure(source.experiment, source.workdir, lines)
  save(figure, source.out / "loss.png", source.command)
  names = ("step", "loss", "val_loss", "grad_norm", "param_norm")
  rows = [
    {name: line.get(name) for name in names} | lines for line in read_jsonl(source.workdir.metrics)
  ]
  write_csv(source.out / "loss.csv", rows, source.command)


def optimum(experiment: Experiment, key: Key, num_points: int = 100_000) -> float:
  """The exact score's loss, the least possible one, where nothing is weighted.

  With I = E |s*|^2 = -E div s*, whose divergence hardly varies where modes lie apart,

      implicit losses    E [div s + |s|^2 / 2]     least: -I / 2
      denoising          E |s + eps / sigma|^2     least: d / sigma^2 - I

  (Hyvarinen 2005, eq. 4, and Vincent 2011, section 4.2). Monte Carlo over points of the noised
  target.
  """
  target, level = (
    target_of(experiment, GaussianMixture),
    _level(experiment, experiment.config["loss"]),
  )

  @jax.jit
  def information(key: Key) -> Array:
    data_key, noise_key = jax.random.split(key)
    x, _ = noised(noise_key, target.sample(data_key, num_points), level)
    jacobian = jax.vmap(jax.jacfwd(lambda x: target.predict(x, level).score))(x)
    return -jnp.mean(jnp.trace(jacobian, axis1=1, axis2=2))

  square = float(information(key))
  if experiment.config["loss"]["name"] == "denoising":
    return target.dim / float(level.sigma) ** 2 - square
  return -square / 2


def overfitting(source: Source) -> None:
  """The training loss, the held-out loss and the true score error on a fixed training set."""
  history = read_jsonl(source.workdir.metrics)
  num_train = source.config.target.num_train
  least = optimum(source.experiment, source.key(10))
  text = f"{source.config.loss.name}, {num_train} fixed points; score error by the exact score"
  save(curves.overfitting(history, text, least), source.out / "overfitting.png", source.command)
  names = ("step", "loss", "val_loss", "score_error")
  rows = [{name: line.get(name) for name in names} | {"optimum": least} for line in history]
  write_csv(source.out / "overfitting.csv", rows, source.command)


def score_error(source: Source) -> None:
  """The relative score error, by mode."""
  result = json.loads(source.workdir.evaluation.read_text())
  figure = summary.score_error_figure(source.experiment, result)
  save(figure, source.out / "score_error.png", source.command)
  errors = result["score_error"]
  values = [errors["relative"][0], *errors["relative_by_mode"]]
  spreads = [errors["relative_sem"][0], *errors["relative_by_mode_sem"]]
  rows = [
    {"sigma": errors["sigma"][0], "mode": mode or "all", "relative": error, "relative_sem": sem}
    for mode, (error, sem) in enumerate(zip(values, spreads, strict=True))
  ]
  write_csv(source.out / "score_error.csv", rows, source.command)


def score_map(source: Source, num: int = 24, stride: int = 5) -> None:
  """The network's score, the exact one, and how far they are apart over the plane."""
  experiment = source.experiment
  level = _level(experiment, experiment.config["loss"])
  reach = 1.4 * _reach(experiment)
  x = fields.lattice(np.full(2, -reach), np.full(2, reach), num * stride)
  at = jnp.asarray(level.alpha * x, jnp.float32)
  network, exact = (
    np.asarray(jax.jit(lambda p, bind=bind: bind(p)(at, level).score)(source.params))
    for bind in (experiment.parameterization.bind, lambda _: truth_of(experiment.target).predict)
  )
  field = fields.ScoreField(x, network, exact, float(level.sigma / level.alpha))
  data, _ = noised(source.key(12), experiment.target.sample(source.key(13), 1000), level)
  found = json.loads(source.workdir.evaluation.read_text())["score_error"]["relative_by_mode"]
  means = level.alpha * target_of(experiment, GaussianMixture).means
  errors = {(float(m[0]), float(m[1]) + 2.2): e for m, e in zip(means, found, strict=True)}
  text = "white: points of the law whose score it is, and its relative error E|s - s*|^2 / E|s*|^2 "
  text += "over each mode"
  figure = fields.score_map(field, stride, np.asarray(data), errors, text)
  save(figure, source.out / "score_map.png", source.command)
  thin = fields.thinned(field, stride)
  gap = np.linalg.norm(thin.network - thin.exact, axis=1, keepdims=True)
  names = ("x1", "x2", "network1", "network2", "exact1", "exact2", "gap")
  columns = np.concatenate([thin.x, thin.network, thin.exact, gap], axis=1).astype(np.float32)
  rows = [dict(zip(names, row, strict=True)) for row in columns]
  write_csv(source.out / "score_map.csv", rows, source.command)


class _Panel(NamedTuple):
  """One panel of `chains`: a row of the evaluation with a score, and the law that it samples."""

  title: str
  row: Row
  level: Level
  law: Any
  bind: Callable[[Params], Any]


def chains(source: Source, num_chains: int = 20, num_frames: int = 70) -> None:
  """Langevin chains over the score that drives them, with their diagnostics (animated)."""
  experiment, panels = source.experiment, _panels(source.experiment)
  reach = 2.3 * _reach(experiment)
  lattice = fields.lattice(np.full(2, -reach), np.full(2, reach), 24).astype(np.float32)
  drawn, table = [], []
  for panel in panels:
    path, score = _run(source, panel, num_chains, lattice)
    found = diagnose(path, panel.law)
    table.append({"chains": panel.title, **found})
    colour = style.sampler_colour(panel.row.sampler)
    if any(chains.colour == colour for chains in drawn):
      colour = style.BLACK
    shares = mode_weights(path[-1], panel.law)
    drawn.append(trajectories.Chains(path, panel.title, _findings(found), colour, score, shares))
  write_csv(source.out / "chains_diagnostics.csv", table, source.command)

  same = f"{num_chains} chains, in every panel with the same draws for start and noise"
  data = panels[0].row.true_start(source.key(15), experiment.target.sample(source.key(16), 1000))
  figure = trajectories.chains(
    drawn,
    lattice,
    np.asarray(data),
    np.asarray(target_of(experiment, GaussianMixture).weights),
    f"{same}; open: the start; R-hat and ESS of the worst\ncoordinate, last "
    f"{len(drawn[0].path) // 2} steps, of points and of differences to the nearest mode's mean; "
    "grey: the law sampled",
  )
  save(figure, source.out / "chains.png", source.command)

  # Most chains arrive within a few dozen steps.
  steps = np.unique(np.geomspace(1, len(drawn[0].path), num_frames).astype(int)) - 1
  figure, draw = animations.moving_clouds(
    [chains.path[steps] for chains in drawn],
    steps,
    np.full(len(steps), reach),
    [chains.title for chains in drawn],
    f"{same};\ngrey: the law that is sampled; arrows: the score, brighter where larger",
    colour=drawn[0].colour,
    backdrop=np.asarray(data),
    field=(lattice, [np.broadcast_to(c.score, (len(steps), *c.score.shape)) for c in drawn]),
    trails=num_chains,
    clock="step {:.0f}",
  )
  frames = animations.render(figure, draw, len(steps))
  animations.save_animation(frames, source.out / "chains.gif", source.command)
  rows = [
    {"chains": chains.title, "step": step, "chain": chain, "x1": point[0], "x2": point[1]}
    for chains in drawn
    for step in steps
    for chain, point in enumerate(chains.path[step].round(3))
  ]
  write_csv(source.out / "chains.csv", rows, source.command)


def _run(
  source: Source, panel: _Panel, num_chains: int, lattice: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """A panel's path [steps + 1, chains, 2], and its score at the lattice; the same keys for each."""
  start_key, key = jax.random.split(source.key(14))

  @jax.jit
  def run(params: Params, x: Array) -> tuple[Array, Array]:
    predict = panel.bind(params)
    path = panel.row.run(key, predict, x).path
    at = panel.level.alpha * jnp.asarray(lattice)
    return jnp.concatenate([x[None], path]), predict(at, panel.level).score

  start = panel.row.prior(start_key, (num_chains, *source.experiment.target.event_shape))
  path, score = run(source.params, start)
  return np.asarray(path), np.asarray(score)


def _findings(found: dict[str, Any]) -> str:
  """Returns what `diagnose` found in three lines, and in a fourth what R-hat does not see."""
  visited, modes = (
    found["modes_visited"],
    sum(name.removeprefix("mode_").isdigit() for name in found),
  )
  stuck = f"\nWARNING: {visited} of {modes} modes visited; R-hat misses {modes - visited}"
  return (
    f"steps accepted: {found['acceptance']:.1%}; mode changes: {found['mode_changes']}\n"
    f"points: R-hat {found['rhat']:.2f}, ESS {found['ess']:.0f}; "
    f"off mode: {found['off_mode_share']:.0%}\n"
    f"within modes: R-hat {found['rhat_within']:.2f}, ESS {found['ess_within']:.0f}"
  ) + (stuck if visited < modes else "")


def diagnose(path: np.ndarray, law: Any) -> dict[str, Any]:
  """Computes convergence diagnostics of chains.

  Args:
    path: [steps + 1, n, d], the start first.
    law: the mixture that they should sample.

  Returns:
    acceptance, the share of the steps that moved; of the steps of the second half mode_changes, how
    often a chain's nearest mode became another one, modes_visited, how many modes were nearest to
    any point (R-hat compares chains with each other: it is near 1 where all are in one mode), and
    ess and rhat, the worst coordinate's, of the points and, as ess_within and rhat_within, of their
    differences to the nearest mode's mean; of the ends, off_mode_share, mode_weight_tv and each
    mode's share.
  """
  kept = path[-(len(path) // 2) :]
  nearest = nearest_modes(kept.reshape(-1, kept.shape[-1]), law)[0].reshape(kept.shape[:2])
  within = kept - np.asarray(law.means)[nearest]
  shares = mode_weights(path[-1], law)
  return {
    "acceptance": float((path[1:] != path[:-1]).any(axis=-1).mean()),
    "mode_changes": int((nearest[1:] != nearest[:-1]).sum()),
    "modes_visited": len(np.unique(nearest)),
    "ess": float(effective_sample_size(kept).min()),
    "rhat": float(split_rhat(kept).max()),
    "ess_within": float(effective_sample_size(within).min()),
    "rhat_within": float(split_rhat(within).max()),
    "off_mode_share": off_mode_share(None, path[-1], law),
    "mode_weight_tv": mode_weight_tv(None, path[-1], law),
    **{f"mode_{i}": float(share) for i, share in enumerate(shares)},
  }


def _panels(experiment: Experiment) -> list[_Panel]:
  """Every row where the score is exact; else the main one, by the network and by the truth."""

  def panel(row: Row, of: str, bind: Callable[[Params], Any]) -> _Panel:
    level = _level(experiment, row.options)
    law = target_of(experiment, GaussianMixture).perturbed(level.alpha, level.sigma)
    title = f"{_NAMES.get(row.sampler, row.sampler)}, h = {row.options['step_size']:g}, {of}"
    return _Panel(title, row, level, law, bind)

  def truth(params: Params) -> Any:
    return truth_of(experiment.target).predict

  rows = experiment.evaluation.rows
  if isinstance(experiment.parameterization, Exact):
    return [panel(r, f"start std {r.options.get('start_std', 1.0):g}", truth) for r in rows]
  bind = experiment.parameterization.bind
  return [panel(rows[0], "network", bind), panel(rows[0], "exact score", truth)]


def _level(experiment: Experiment, options: dict[str, Any]) -> Level:
  """The level of a loss or of a chain: its sigma / alpha, or the data."""
  return experiment.schedule.at_ratio(options.get("sigma") or 0.0)


def _reach(experiment: Experiment) -> float:
  """Returns the largest distance from 0 of a coordinate of the data."""
  return max(float(jnp.abs(bound).max()) for bound in target_of(experiment, GaussianMixture).bounds)


EXACT_FIGURES: dict[str, Callable[[Source], None]] = {
  "budget": nine_modes.budget,
  "chains": chains,
}
FIGURES: dict[str, Callable[[Source], None]] = {
  "loss": loss,
  "score_error": score_error,
  "score_map": score_map,
  "samples": nine_modes.samples,
  **EXACT_FIGURES,
}
