"""Optimisers: optax's rules, with clipping, decoupled weight decay and a learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable

import optax

RULES: dict[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.scale_by_adam,
  "adamax": optax.scale_by_adamax,
  "lion": optax.scale_by_lion,
  "sgd": optax.identity,
}
DECAYS: dict[str, Callable[[int], optax.Schedule]] = {
  "constant": lambda num_steps: optax.constant_schedule(1.0),
  "cosine": lambda num_steps: optax.cosine_decay_schedule(1.0, max(num_steps, 1)),
}


def learning_rate_shape(*, decay: str, warmup_steps: int, num_steps: int) -> optax.Schedule:
  """Step -> the learning rate as a share of its peak: a linear warm-up from 0, then the decay.

  Args:
    decay: a name of DECAYS.
    warmup_steps: at least 0.
    num_steps: all of them, the warm-up included.
  """
  decayed = DECAYS[decay](num_steps - warmup_steps)
  if not warmup_steps:
    return decayed
  warmup = optax.linear_schedule(0.0, 1.0, warmup_steps)
  return optax.join_schedules([warmup, decayed], [warmup_steps])


def make_optimizer(
  rule: optax.GradientTransformation,
  *,
  num_steps: int,
  learning_rate: float = 1e-3,
  decay: str = "constant",
  warmup_steps: int = 0,
  clip_norm: float = 0.0,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """Clips the whole gradient, applies the rule, decays the weights (AdamW's way), and scales.

  Args:
    rule: one of RULES, called with its own options.
    num_steps: of the training.
    learning_rate: its peak, > 0; may be traced.
    decay: a name of DECAYS.
    warmup_steps: steps of linear warm-up from 0.
    clip_norm: largest norm of the gradient; 0 does not clip.
    weight_decay: share of the parameters taken off a step, per unit of learning rate.
  """
  shape = learning_rate_shape(decay=decay, warmup_steps=warmup_steps, num_steps=num_steps)
  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    rule,
    optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
    optax.scale_by_schedule(shape),
    optax.scale(-learning_rate),  # apart: a traced one breaks optax's own schedules
  )
