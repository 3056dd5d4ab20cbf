"""Builds the evaluation (rows, metrics, likelihood) from config.evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from scorelab.config.options import (
  choose,
  named,
  options_of,
  refuse_unused,
)
from scorelab.errors import ConfigError
from scorelab.experiment.build_observation import posterior_of
from scorelab.experiment.compatibility import (
  check_data_level,
  check_guidance,
  check_observation,
  check_pure_noise,
)
from scorelab.experiment.sampler_spec import RowPlan, labelled, parse_changes, plan_rows
from scorelab.experiment.spec import Components, Evaluation, LikelihoodProtocol
from scorelab.inverse import Observation
from scorelab.likelihood.flow import METHODS
from scorelab.metrics import (
  CLASS_METRICS,
  FEATURES,
  LABEL_METRICS,
  METRICS,
  MODE_METRICS,
  SUPPORT_METRICS,
  features_need,
  in_features,
  needed_by,
)
from scorelab.metrics.features import batched
from scorelab.pretrained.files import PretrainedError
from scorelab.pretrained.inception import inception_features
from scorelab.targets import has_truth
from scorelab.typing import ConditionalTarget, Target


def plan_rows_of(
  config: ConfigDict, numbers: Collection[str] = (), observation: Observation | None = None
) -> tuple[RowPlan, ...]:
  """Plans the rows that a config asks for: see `plan_rows`.

  Args:
    config: the resolved config.
    numbers: the fields that differ between members of an ensemble, by dotted name.
    observation: samples are of the law given it; None for the target itself.
  """
  main = {k: v for k, v in config.sampler.items() if v is not None}
  exact = config.parameterization.name == "exact"
  has_density = exact or bool(config.parameterization.energy)
  varied = {field.removeprefix("sampler.") for field in numbers if field.startswith("sampler.")}
  return plan_rows(main, config.evaluation.rows, has_density, varied, observation)


def make_evaluation(
  config: ConfigDict,
  target: Target,
  components: Components,
  plans: Sequence[RowPlan],
  observation: Observation | None = None,
) -> Evaluation:
  """Builds the evaluation of a config.

  Args:
    config: the resolved config.
    target: the distribution to sample from.
    components: built from the same config.
    plans: plans of its rows.
    observation: samples are of the law given it; None for the target itself.
  """
  posterior = posterior_of(target, observation)
  section = config.evaluation
  loss_levels, label_dropout = components.loss_levels, components.label_dropout
  metrics: dict[str, Callable[..., float]] = {}
  for spec in section.metrics:
    name, *changes = spec.split(":")
    metric = choose(METRICS, name, "evaluation.metrics", "metric")
    own = parse_changes(changes, f"evaluation.metrics, {spec!r}")
    features = own.pop("features", None)
    label = spec
    if features is not None and section.features is not None:
      label = spec.replace(f"features={features}", f"features={section.features}")
      features = section.features
    refuse_unused(own, f"evaluation.metrics, {spec!r}", name, (metric,))
    if needed := needed_by(name, target):
      allowed = ", ".join(sorted(known for known in METRICS if not needed_by(known, target)))
      raise ConfigError(
        f"evaluation.metrics = {name!r} needs {needed}, and target.name = {config.target.name!r} "
        f"has none (allowed: {allowed})"
      )
    if name in LABEL_METRICS and not config.network.num_classes:
      raise ConfigError(f"evaluation.metrics = {name!r} needs a network of classes: num_classes")
    options = options_of(metric, section) | own
    if features is not None:
      if name in {**MODE_METRICS, **CLASS_METRICS, **LABEL_METRICS, **SUPPORT_METRICS}:
        raise ConfigError(f"evaluation.metrics = {spec!r}: features are for metrics of points")
      path = f"evaluation.metrics, {label!r}"
      metric = _in_features(metric, str(features), path, target, section.inception_path)
    metrics[label] = functools.partial(metric, **options)
  choose(named(("fresh", "train", "test")), section.reference, "evaluation.reference", "reference")
  choose(named(("last", "best")), section.checkpoint, "evaluation.checkpoint", "checkpoint")
  exact = config.parameterization.name == "exact"
  comparable = (
    has_truth(target if observation is None else posterior)
    and config.parameterization.name != "consistency"
  )
  rows = labelled([plan.make(components.schedule, {}) for plan in plans])
  check_pure_noise(config, rows)
  check_guidance(config, rows, target, label_dropout)
  check_observation(config, rows, observation)
  # The unconditional output of the network.
  unconditional = exact or not config.network.num_classes or label_dropout > 0
  if section.likelihood_points and not unconditional:
    raise ConfigError(
      f"evaluation.likelihood_points = {section.likelihood_points} needs a network that is also "
      "told no class: network.label_dropout > 0"
    )
  many_levels = True
  if loss_levels is not None:  # one program: op by op, each would be compiled
    low, high = jax.jit(lambda u: loss_levels(u).log_snr)(jnp.array([0.25, 0.75]))
    many_levels = bool(low != high)
    if low == jnp.inf:
      check_data_level(config)
  return Evaluation(
    rows=rows,
    metrics=metrics,
    checkpoint=section.checkpoint,
    ema=section.ema,
    num_keys=section.num_keys,
    num_samples=section.num_samples,
    batch_size=section.batch_size,
    num_reference=section.num_reference,
    reference=section.reference,
    score_levels=tuple(section.score_levels),
    score_samples=section.score_samples,
    labels=_requested_labels(config, target),
    observation=observation,
    posterior=posterior,
    comparable=comparable,
    girsanov=comparable and observation is None and not exact and many_levels and unconditional,
    likelihood=_make_likelihood(config, exact or many_levels),
    exact=bool(section.exact),
  )


def _in_features(
  metric: Callable[..., float], name: str, path: str, target: Target, inception_path: str | None
) -> Callable[..., float]:
  """Returns the metric on the features of this name, or of a function by its dotted name."""
  if "." in name:
    # The function maps images [n, h, w, c] in float32, -1 to 1, to features [n, d]. It is jitted,
    # and reads its weights while it is traced.
    own = choose({"": batched}, name, f"{path}: features", "function of images")
    extract = batched(jax.jit(own))
    return in_features(metric, name, lambda _: extract)
  known = {**FEATURES, "inception": lambda _: inception_features(inception_path)}
  make_extractor = choose(known, name, f"{path}: features", "network of features")
  if needed := features_need(name, target):
    raise ConfigError(f"{path}: features = {name!r} needs {needed}, and the target has none")
  if name == "inception":  # read now, so that a mistake is found before training
    try:
      inception_features(inception_path)
    except PretrainedError as error:
      raise ConfigError(f"evaluation.inception_path = {inception_path!r}: {error}") from error
  return in_features(metric, name, make_extractor)


def _requested_labels(config: ConfigDict, target: Target) -> str | None:
  """Returns config.evaluation.labels, by default 'data' for a conditional network."""
  num_classes, requested = config.network.num_classes, config.evaluation.labels
  if not num_classes:
    if requested is not None:
      raise ConfigError(
        f"evaluation.labels = {requested!r} needs a network of classes: set network.num_classes"
      )
    return None
  requested = "data" if requested is None else str(requested)
  classes = tuple(str(label) for label in range(num_classes))
  requested = choose(named(("data", "uniform", *classes)), requested, "evaluation.labels", "choice")
  if requested != "data" and not isinstance(target, ConditionalTarget):
    raise ConfigError(
      f"evaluation.labels = {requested!r} needs a target with sample_of_class, and target.name = "
      f"{config.target.name!r} has none: use 'data'"
    )
  return requested


def _make_likelihood(config: ConfigDict, has_flow: bool) -> LikelihoodProtocol | None:
  section, path = config.evaluation, "evaluation.likelihood"
  if not section.likelihood_points:
    return None
  if not has_flow:
    raise ConfigError(
      f"{path}_points = {section.likelihood_points} needs a network of every level, and "
      f"loss.name = {config.loss.name!r} trains one of a single level"
    )
  given = {
    name: section[f"likelihood_{name}"]
    for name in ("method", "num_steps", "divergence", "num_probes", "tolerance", "bound_steps")
    if section[f"likelihood_{name}"] is not None
  }
  variance = "learned" if config.parameterization.learned_variance else "large"
  protocol = LikelihoodProtocol(section.likelihood_points, variance=variance, **given)
  adaptive = protocol.method == "adaptive"
  choose(named((*METHODS, "adaptive")), protocol.method, f"{path}_method", "method")
  divergences = named(("exact", "hutchinson"))
  choose(divergences, protocol.divergence, f"{path}_divergence", "divergence")
  for field, unused, by in (
    ("num_steps", adaptive, "method"),
    ("tolerance", not adaptive, "method"),
    ("num_probes", protocol.divergence == "exact", "divergence"),
  ):
    if unused and field in given:
      raise ConfigError(
        f"{path}_{field} = {given[field]!r} is not an option of "
        f"{path}_{by} = {getattr(protocol, by)!r}"
      )
  return protocol
