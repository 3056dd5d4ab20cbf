"""Checks of arguments: one ValueError with the argument, the allowed values and the given one.

`checked` decorates a public function. It reads types and ranges from the annotations, and takes the
names that a registry knows. Traced values are not checked, and nothing is added to a program.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from scorelab.errors import did_you_mean
from scorelab.ranges import ANY, ORDERED, Range, members, range_in

_F = TypeVar("_F", bound=Callable[..., Any])
_V = TypeVar("_V")

# What to pass instead, by the class that an annotation names.
_REMEDIES = {
  "Grid": "a Grid, such as karras(schedule, 16), or Grid.from_arrays(alpha, sigma, process='ve')",
  "Level": "a Level, such as schedule.at_ratio(0.5) or schedule.at(0.5)",
  "Prediction": "a Prediction, such as predict(x, level)",
  "Schedule": "a Schedule, such as VarianceExploding()",
}


class UnknownNameError(KeyError, ValueError):
  """A name that a registry does not have; the message is one line."""

  def __str__(self) -> str:
    return str(self.args[0])


class Registry(dict[str, _V]):
  """A dict of components by name; the error for an unknown name suggests the nearest one.

  `Registry("sampler") | {...}` is a registry of these components.

  Args:
    what: the kind of component, 'sampler', for the message.
    parts: components by name.
  """

  def __init__(self, what: str, parts: Mapping[str, _V] = types.MappingProxyType({})):
    super().__init__(parts)
    self.what = what

  def __or__(self, other: Mapping[str, Any]) -> Registry[Any]:  # pyrefly: ignore[bad-override]
    return Registry(self.what, {**self, **other})

  def __missing__(self, name: Any) -> _V:
    raise UnknownNameError(unknown(self.what, name, self))


def parts_of(module: types.ModuleType) -> dict[str, Any]:
  """Returns what a module imports, by its names in configs; a class's name is in snake case."""
  return {
    re.sub(r"(?<=[a-z])(?=[A-Z]\w)", "_", name).lower(): part  # UNet2D is unet2d
    for name, part in vars(module).items()
    if not name.startswith("_")
  }


def unknown(argument: str, value: Any, known: Collection[Any]) -> str:
  """Returns "order = 5 must be one of 1, 2, 3; did you mean ...?"."""
  names = [name for name in known if isinstance(name, str)]
  close = did_you_mean(value, names) if isinstance(value, str) else ""
  return f"{argument} = {shown(value)} must be one of {', '.join(map(str, known))}{close}"


def require_known(argument: str, value: Any, known: Collection[Any]) -> None:
  """Raises ValueError unless the value is among the known ones."""
  if isinstance(value, bool) or not isinstance(value, (str, int)) or value not in known:
    raise ValueError(unknown(argument, value, known))


def is_traced(value: Any) -> bool:
  """Returns whether a value is an argument of a program that is being traced."""
  return isinstance(value, jax.core.Tracer)


def shown(value: Any) -> str:
  """Formats a value in at most 80 characters of one line; an array by its shape."""
  if isinstance(value, (jax.Array, np.ndarray)) and (is_traced(value) or value.size > 1):
    return f"<{value.dtype} array of shape {value.shape}>"
  if isinstance(value, (jax.Array, np.ndarray)):
    return f"{value}"
  text = repr(value).partition("\n")[0]
  if len(text) > 80 or text.startswith("<"):
    return f"<{type(value).__name__}>"
  return text


def require_range(argument: str, value: Any, allowed: Range = ANY) -> None:
  """Raises ValueError for a concrete number, or one of an array, outside its range.

  Args:
    argument: its name.
    value: a number or an array of them.
    allowed: the range; by default any number but nan.
  """
  if is_traced(value):
    return
  numbers = np.asarray(value)
  # Ranges are intervals, so the ends tell; nan is neither's.
  ends = (numbers.min(), numbers.max()) if numbers.ndim and numbers.size else numbers.ravel()
  for end in ends:
    if not allowed.allows(end):
      given = f"holds {end:g}, and" if numbers.ndim else f"= {shown(value)}"
      raise ValueError(f"{argument} {given} must be {allowed.description}")


def require_order(low: str, smaller: Any, high: str, larger: Any, strict: bool = True) -> None:
  """Raises ValueError unless smaller < larger, or <= if not strict; None and arrays pass."""
  for value in (smaller, larger):
    if value is None or is_traced(value) or np.ndim(value) or isinstance(value, str):
      return
  if not (smaller < larger or (smaller == larger and not strict)):
    sign = "<" if strict else "<="
    raise ValueError(
      f"{low} = {shown(smaller)} and {high} = {shown(larger)} must satisfy {low} {sign} {high}"
    )


def require_event(argument: str, x: Any, event_shape: tuple[int, ...]) -> None:
  """Raises ValueError unless x is an array of floats whose trailing axes are an event's."""
  require_floats(argument, x)
  if x.shape[x.ndim - len(event_shape) :] != event_shape or x.ndim < len(event_shape):
    event = ", ".join(map(str, event_shape))
    raise ValueError(f"{argument} has shape {x.shape}, must be [*batch, {event}]")


def require_floats(argument: str, x: Any) -> None:
  """Raises ValueError unless x is an array of floats."""
  if not isinstance(x, (jax.Array, np.ndarray)):
    given = f"a {type(x).__name__}"
  elif not np.issubdtype(x.dtype, np.floating) and not jax.numpy.issubdtype(x.dtype, np.floating):
    given = shown(x)
  else:
    return
  raise ValueError(f"{argument} must be an array of floats, such as jnp.array(..., float): {given}")


def require_batch(batch: Any) -> None:
  """Raises ValueError unless a batch is a dict whose x is an array of floats."""
  if not isinstance(batch, Mapping) or "x" not in batch:
    raise ValueError(f"batch = {shown(batch)} must be a dict of arrays, {{'x': ..., 'label': ...}}")
  require_floats("batch['x']", batch["x"])


def require_grid(levels: Any) -> None:
  """Raises ValueError unless sigma / alpha falls along concrete levels, which Levels hold."""
  alpha, sigma = levels.alpha, levels.sigma
  if is_traced(alpha) or is_traced(sigma):
    return
  with np.errstate(divide="ignore", invalid="ignore"):  # pure noise
    ratios = np.asarray(sigma) / np.asarray(alpha)  # on the host: nothing is compiled for it
  if not (ratios[1:] < ratios[:-1]).all():
    first = ", ".join(f"{ratio:g}" for ratio in ratios[:3])
    raise ValueError(f"the grid's sigma / alpha must fall towards the data: {first}, ...")


def checked_predict(predict: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `predict` with its results checked: a Prediction at the points that it was given."""

  @functools.wraps(predict, updated=())
  def wrapper(x: Any, level: Any) -> Any:
    pred = predict(x, level)
    if not hasattr(pred, "views"):
      raise ValueError(
        f"predict returned {shown(pred)}, must return a Prediction, such as"
        " Prediction.of(x, level, 'x0', x0=...)"
      )
    if pred.x.shape != x.shape:
      raise ValueError(f"predict returned shape {pred.x.shape}, must return x's, {x.shape}")
    return pred

  return wrapper


@typing.overload
def checked(function: _F, /) -> _F: ...


@typing.overload
def checked(**known: Collection[Any]) -> Callable[[_F], _F]: ...


def checked(function: Any = None, /, **known: Collection[Any]) -> Any:
  """Checks a function's arguments, or a dataclass's fields, by their annotations.

  Used as `@checked`, or as `@checked(view=VIEWS)`. A number must be in the range of its annotation,
  `eta: Annotated[float, AtLeast(0)]`; without a range any number but nan is allowed.

  Args:
    function: a function or a dataclass.
    known: by argument, the values or names allowed; of an argument that takes a function, the
      registry that a name belongs to.
  """
  if function is None:
    return functools.partial(_checked, known)
  return _checked({}, function)


def _checked(known: Mapping[str, Collection[Any]], function: Any, owner: type | None = None) -> Any:
  """Returns the function, or the class with its __init__, behind the checks."""
  if isinstance(function, type):  # a dataclass
    function.__init__ = _checked(known, function.__init__, function)
    return function
  signature = inspect.signature(function)
  pairs = [pair for pair in ORDERED if set(pair[:2]) <= set(signature.parameters)]

  @functools.cache
  def hints() -> dict[str, tuple[tuple[Any, ...], Range]]:
    # When it is called: an annotation may name what is not yet there now. Fields of a class may be
    # those of a base in another module.
    resolved = typing.get_type_hints(owner or function, include_extras=True)
    return {
      name: (members(resolved[name]), range_in(resolved[name]) or ANY)
      for name in signature.parameters
      if name in resolved
    }

  @functools.wraps(function)
  def wrapper(*args: Any, **kwargs: Any) -> Any:
    try:
      bound = signature.bind(*args, **kwargs)
    except TypeError:
      return function(*args, **kwargs)  # its own message
    for name, value in bound.arguments.items():
      if name in hints():
        _check(name, value, *hints()[name], known.get(name))
    if pairs:
      bound.apply_defaults()
      values = bound.arguments
      for low, high, strict in pairs:
        require_order(low, values[low], high, values[high], strict)
    if callable(bound.arguments.get("predict")):
      bound.arguments["predict"] = checked_predict(bound.arguments["predict"])
      return function(*bound.args, **bound.kwargs)
    return function(*args, **kwargs)

  wrapper.__choices__ = known  # pyrefly: ignore[missing-attribute]
  return wrapper


def _check(
  name: str, value: Any, hints: tuple[Any, ...], allowed: Range, known: Collection[Any] | None
) -> None:
  """Raises ValueError if the value is none that the annotation allows, or out of range."""
  if value is None and type(None) in hints:
    return
  kinds = {getattr(hint, "__name__", "") for hint in hints}
  if remedies := [_REMEDIES[kind] for kind in kinds & _REMEDIES.keys()]:
    if kinds.isdisjoint(base.__name__ for base in type(value).__mro__):
      raise ValueError(f"{name} = {shown(value)} must be {remedies[0]}")
  elif "Predict" in kinds or any(typing.get_origin(hint) is Callable for hint in hints):
    _check_function(name, value, known)
  elif kinds & {"float", "int"}:
    _check_number(name, value, kinds, allowed, known)
  elif "bool" in kinds:
    if not isinstance(value, (bool, np.bool_)) and not is_traced(value):
      raise ValueError(f"{name} = {shown(value)} must be True or False")
  elif "str" in kinds:
    if known is not None:
      require_known(name, value, known)
    elif not isinstance(value, str):
      raise ValueError(f"{name} = {shown(value)} must be a name")
  elif jax.Array in hints and name in ("x", "x0", "noise", "z"):
    require_floats(name, value)
  elif jax.Array in hints and name == "key" and not isinstance(value, hints):
    raise ValueError(f"key = {shown(value)} must be a key, such as jax.random.key(0)")


def _check_function(name: str, value: Any, known: Collection[Any] | None) -> None:
  if callable(value):
    return
  if isinstance(value, str) and known:
    close = difflib.get_close_matches(value, [*known], n=1, cutoff=0)
    function = getattr(known[close[0]], "__name__", "")  # pyrefly: ignore[bad-index]
    raise ValueError(
      f"{name} = {value!r} must be a function: names are for configs; did you mean"
      f" {name}={function}, the {close[0]!r} of the registry?"
    )
  remedy = f"; did you mean {name}=target.predict?" if hasattr(value, "predict") else ""
  raise ValueError(f"{name} = {shown(value)} must be a function{remedy}")


def _check_number(
  name: str, value: Any, kinds: set[str], allowed: Range, known: Collection[Any] | None
) -> None:
  if is_traced(value):
    return
  if known is not None:
    require_known(name, value, known)
    return
  try:
    numbers = np.asarray(value)
    whole = numbers.dtype.kind in "iu"
    fits = whole or (numbers.dtype.kind == "f" and "float" in kinds)
    fits |= bool("float" in kinds and jax.numpy.issubdtype(numbers.dtype, np.floating))
  except (TypeError, ValueError):
    fits = False
  if not fits:
    raise ValueError(
      f"{name} = {shown(value)} must be a {'' if 'float' in kinds else 'whole '}number"
    )
  require_range(name, value, allowed)
