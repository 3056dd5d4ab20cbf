"""Charts as SVG, in the page's own colours: lines on linear or logarithmic axes.

They are written here because the page embeds all that it needs in 10 MB: plotly.min.js alone takes
4.8 MB of them (plotly 7.1) and draws only where scripts run, and these charts take a few kB each.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 440, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 10, 40
NUM_COLOURS, NUM_DASHES = 7, 3


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a chart.

  Attributes:
    label: shown where one points at it.
    points: (x, y), and their standard errors or nan.
    run: the number of the run that it belongs to.
    style: a CSS class, 'colour0' and so on, or a CSS colour.
    dash: which of the dash patterns.
    marks: whether points are marked.
    joined: whether they are joined.
  """

  label: str
  points: Sequence[tuple[float, float, float]]
  run: int
  style: str
  dash: int = 0
  marks: bool = False
  joined: bool = True


@dataclasses.dataclass(frozen=True)
class Axis:
  """Numbers to pixels."""

  low: float
  high: float
  log: bool
  start: float
  end: float

  def at(self, value: float) -> float:
    """Returns the position of a number in pixels, clipped to the ends."""
    low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
    if self.log:
      value = math.log(max(value, self.low))
    share = (min(max(value, low), high) - low) / (high - low)
    return self.start + share * (self.end - self.start)

  def ticks(self) -> list[float]:
    """Round numbers between the ends, from three to about seven."""
    if not self.log:
      step = _round_step((self.high - self.low) / 4)
      first = math.ceil(self.low / step - 1e-9)
      return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
    decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
      found = [f * 10.0**d for d in decades for f in factors]
      found = [tick for tick in found if self.low <= tick * 1.001 and tick <= self.high * 1.001]
      if len(found) >= 3:
        break
    return found[:: -(-len(found) // 7)] if found else [self.low, self.high]


def _round_step(rough: float) -> float:
  scale = 10.0 ** math.floor(math.log10(rough))
  return next(f * scale for f in (1.0, 2.0, 2.5, 5.0, 10.0) if f * scale >= rough * 0.999)


def _axis(values: Sequence[float], log: bool, start: float, end: float) -> Axis:
  low, high = min(values), max(values)
  if low == high:
    pad = abs(low) / 2 or 1.0
    low, high = (low / 2, high * 2) if log else (low - pad, high + pad)
  elif log:
    low, high = low / (high / low) ** 0.04, high * (high / low) ** 0.04
  else:
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
  return Axis(low, high, log, start, end)


def chart(
  lines: Sequence[Line],
  x_label: str,
  y_label: str,
  log_x: bool = False,
  floor: float = math.nan,
) -> Markup:
  """An SVG element, or nothing where there is no finite point.

  The y axis is logarithmic where all numbers are positive and the largest is eight times the
  smallest.

  Args:
    lines: what is drawn, the first at the bottom.
    x_label, y_label: the axes' names.
    log_x: whether x is logarithmic; only positive x are drawn then.
    floor: a grey line, or nan.
  """
  finite = [
    dataclasses.replace(
      line,
      points=[p for p in line.points if math.isfinite(p[1]) and (p[0] > 0 or not log_x)],
    )
    for line in lines
  ]
  finite = [line for line in finite if line.points]
  if not finite:
    return Markup("")
  xs = [p[0] for line in finite for p in line.points]
  ys = [p[1] for line in finite for p in line.points]
  errors = [(p[1], p[2]) for line in finite for p in line.points if line.marks and p[2] > 0]
  ys += [y + sign * e for y, e in errors for sign in (-1, 1) if y + sign * e > 0 or min(ys) < 0]
  ys += [floor] if math.isfinite(floor) else []
  x = _axis(xs, log_x, _LEFT, WIDTH - _RIGHT)
  y = _axis(ys, min(ys) > 0 and max(ys) > 8 * min(ys), HEIGHT - _BOTTOM, _TOP)
  parts = [_frame(x, y, x_label, y_label)]
  if math.isfinite(floor):
    at = y.at(floor)
    parts.append(
      Markup('<line class="floor" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
        _LEFT, WIDTH - _RIGHT, at, at
      )
    )
  parts += [_draw(line, x, y) for line in finite]
  name = Markup('role="img" aria-label="{} against {}"').format(y_label, x_label)
  box = Markup('viewBox="0 0 {} {}"').format(WIDTH, HEIGHT)
  return Markup('<svg class="chart" {} {}>{}</svg>').format(box, name, Markup("").join(parts))


def short(value: float) -> str:
  """A number in few characters."""
  if 1e4 <= abs(value) < 1e7:
    return f"{value / 1000:g}k"
  return f"{value:.4g}".replace("e+0", "e").replace("e-0", "e-")


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> Markup:
  bottom, parts = HEIGHT - _BOTTOM, []
  for tick in y.ticks():
    parts.append(
      Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
      ).format(
        _LEFT, WIDTH - _RIGHT, y.at(tick), y.at(tick), _LEFT - 5, y.at(tick) + 4, short(tick)
      )
    )
  for tick in x.ticks():
    parts.append(
      Markup(
        '<line class="tick" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>'
        '<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
      ).format(x.at(tick), x.at(tick), bottom, bottom + 4, x.at(tick), bottom + 16, short(tick))
    )
  middle = (_LEFT + WIDTH - _RIGHT) / 2
  parts.append(
    Markup(
      '<text x="{}" y="{}" text-anchor="middle">{}</text>'
      '<text transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>'
      '<path class="axis" d="M{} {}V{}H{}"/>'
    ).format(
      middle,
      HEIGHT - 6,
      x_label,
      (_TOP + bottom) / 2,
      y_label,
      _LEFT,
      _TOP,
      bottom,
      WIDTH - _RIGHT,
    )
  )
  return Markup("").join(parts)


def _draw(line: Line, x: Axis, y: Axis) -> Markup:
  points = [(x.at(p[0]), y.at(p[1])) for p in line.points]
  inner = Markup("<title>{}</title>").format(line.label)
  if line.joined and len(points) > 1:
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    inner += Markup('<path class="dash{}" d="{}"/>').format(line.dash, path)
  if line.marks:
    for (px, py), (_, value, error) in zip(points, line.points, strict=True):
      if math.isfinite(error) and error > 0:
        ends = y.at(value - error), y.at(value + error)
        inner += Markup('<path d="M{:.1f} {:.1f}V{:.1f}"/>').format(px, *ends)
      inner += Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3"/>').format(px, py)
  of_class = line.style.startswith("colour")
  colour = Markup('class="{}"') if of_class else Markup('style="color:{}"')
  return Markup('<g data-run="{}" {}>{}</g>').format(line.run, colour.format(line.style), inner)


def thinned(history: Sequence[tuple[float, float]], number: int = 150) -> list[tuple[float, float]]:
  """At most about so many points of a curve: means over equal stretches."""
  size = max(1, -(-len(history) // number))
  groups = [history[i : i + size] for i in range(0, len(history), size)]
  return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
