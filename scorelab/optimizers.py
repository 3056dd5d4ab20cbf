"""Optimizers: optax's rules, with clipping, decoupled weight decay and a learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from scorelab.networks.heads import HEADS
from scorelab.ranges import Above, Between
from scorelab.typing import Array, Params
from scorelab.validation import is_traced


def adam(
  *,
  b1: Annotated[float, Between(0, 1, "[)")] = 0.9,
  b2: Annotated[float, Between(0, 1, "[)")] = 0.999,
  eps: Annotated[float, Above(0)] = 1e-8,
) -> optax.GradientTransformation:
  """Adam: `optax.scale_by_adam`.

  Args:
    b1, b2: decay of the first and of the second moment.
    eps: added to the root of the second.
  """
  return optax.scale_by_adam(b1, b2, eps)


def adamax(
  *,
  b1: Annotated[float, Between(0, 1, "[)")] = 0.9,
  b2: Annotated[float, Between(0, 1, "[)")] = 0.999,
  eps: Annotated[float, Above(0)] = 1e-8,
) -> optax.GradientTransformation:
  """Adam with the largest recent gradient in the second moment's place: `optax.scale_by_adamax`.

  Args:
    b1, b2: decay of the first moment and of the largest gradient.
    eps: added to the largest gradient.
  """
  return optax.scale_by_adamax(b1, b2, eps)


def lion(
  *,
  b1: Annotated[float, Between(0, 1, "[)")] = 0.9,
  b2: Annotated[float, Between(0, 1, "[)")] = 0.99,
) -> optax.GradientTransformation:
  """The sign of an averaged gradient: `optax.scale_by_lion`.

  Args:
    b1: weight of the average in the update.
    b2: decay of the average.
  """
  return optax.scale_by_lion(b1, b2)


def adam_by_head(
  *,
  b1: Annotated[float, Between(0, 1, "[)")] = 0.9,
  b2: Annotated[float, Between(0, 1, "[)")] = 0.999,
  eps: Annotated[float, Above(0)] = 1e-8,
) -> optax.GradientTransformation:
  """Adam that skips heads without a gradient: their weights, moments and step count stay.

  Parameters under the name HEADS have a leading axis of heads, and each head has its own Adam; the
  other parameters share one. A head is skipped if its whole gradient is exactly zero, because then
  it was not drawn. PyTorch's Adam does the same for a tensor whose gradient is None, as
  `zero_grad(set_to_none=True)` sets it (the default since 2.0). Plain Adam with zero gradients
  would continue by its momentum and count the step.

  Args:
    b1, b2: decay of the first and of the second moment.
    eps: added to the root of the second.

  Returns:
    A transformation that returns the updates of `optax.scale_by_adam`. Later transformations, such
    as weight decay, are not masked.
  """
  adam: Any = optax.scale_by_adam(b1, b2, eps)

  def init(params: Params) -> tuple[optax.OptState, optax.OptState]:
    heads, rest = _split(params)
    return jax.vmap(adam.init)(heads) if heads else (), adam.init(rest)

  def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
    del params, extra
    heads, rest = _split(updates)
    of_heads, of_rest = state
    rest, of_rest = adam.update(rest, of_rest)
    if heads:
      drawn = jax.vmap(lambda tree: jnp.any(jnp.array([jnp.any(g != 0) for g in tree])))(heads)

      def where_drawn(new: Array, old: Array) -> Array:
        return jnp.where(drawn.reshape(drawn.shape + (1,) * (new.ndim - 1)), new, old)

      moved, state_after = jax.vmap(adam.update)(heads, of_heads)
      heads = jax.tree.map(lambda new: where_drawn(new, jnp.zeros_like(new)), moved)
      of_heads = jax.tree.map(where_drawn, state_after, of_heads)
    return _join(updates, heads, rest), (of_heads, of_rest)

  return optax.GradientTransformation(init, update)


def _is_head(path: jax.tree_util.KeyPath) -> bool:
  return any(getattr(key, "key", None) == HEADS for key in path)


def _split(tree: Params) -> tuple[list[Array], list[Array]]:
  """Splits a tree into the leaves under HEADS and the others."""
  leaves = jax.tree.leaves_with_path(tree)
  heads = [leaf for path, leaf in leaves if _is_head(path)]
  return heads, [leaf for path, leaf in leaves if not _is_head(path)]


def _join(like: Params, heads: list[Array], rest: list[Array]) -> Params:
  """Inverts `_split` for other leaves of the same tree structure."""
  of_head, of_rest = iter(heads), iter(rest)
  return jax.tree.map_with_path(lambda path, _: next(of_head if _is_head(path) else of_rest), like)


RULES: dict[str, Callable[..., optax.GradientTransformation]] = {
  "adam": adam,
  "adam_by_head": adam_by_head,
  "adamax": adamax,
  "lion": lion,
  "sgd": optax.identity,
}
DECAYS: dict[str, Callable[[int], optax.Schedule]] = {
  "constant": lambda num_steps: optax.constant_schedule(1.0),
  "cosine": lambda num_steps: optax.cosine_decay_schedule(1.0, max(num_steps, 1)),
}


def learning_rate_shape(*, decay: str, warmup_steps: int, num_steps: int) -> optax.Schedule:
  """Returns step -> learning rate / peak: a linear warm-up from 0, then the decay.

  With 'cosine' it is `optax.warmup_cosine_decay_schedule`, bit for bit, but takes also a warm-up as
  long as the run, for which that raises.

  Args:
    decay: a name of DECAYS.
    warmup_steps: at least 0.
    num_steps: all steps, including the warm-up.
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
  """Clips the global gradient norm, applies the rule, decays the weights as AdamW, and scales.

  Args:
    rule: one of RULES, called with its own options.
    num_steps: training steps.
    learning_rate: its peak, > 0.
    decay: a name of DECAYS.
    warmup_steps: steps of linear warm-up from 0.
    clip_norm: largest norm of the gradient; 0 does not clip.
    weight_decay: fraction of the parameters subtracted per step, per unit of learning rate.

  learning_rate, clip_norm, weight_decay and the rule's own numbers may be traced. A traced
  clip_norm always clips, also at 0.
  """
  shape = learning_rate_shape(decay=decay, warmup_steps=warmup_steps, num_steps=num_steps)
  return optax.chain(
    optax.identity() if _is_zero(clip_norm) else optax.clip_by_global_norm(clip_norm),
    rule,
    optax.identity() if _is_zero(weight_decay) else optax.add_decayed_weights(weight_decay),
    optax.scale_by_schedule(shape),
    optax.scale(-learning_rate),  # apart: a traced one breaks optax's own schedules
  )


def _is_zero(number: Any) -> bool:
  return not is_traced(number) and not number
