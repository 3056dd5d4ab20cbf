"""Reads tables of numbers from text files: CSV and TSV, with or without a header line.

Raises a ValueError of one line that names the line or the column and says how to fix it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from scorelab.errors import did_you_mean

_OTHER_SEPARATORS = (";", "\t", "|")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_UNNAMED = re.compile(r"(Unnamed: \d+)?")  # pandas writes the second after it has read the first
_GAPS = {"", "na", "n/a", "#n/a", "null", "none", "-", "?"}

Line = tuple[int, list[str]]
"""A line's number, from 1 on, and its cells."""


@dataclasses.dataclass(frozen=True)
class TextTable:
  """Columns of numbers read from a text file.

  Attributes:
    values: [n, k] float64.
    names: column names; None without a header line.
    remarks: notes for the reader: dropped columns and lines.
  """

  values: np.ndarray
  names: tuple[str, ...] | None
  remarks: tuple[str, ...] = ()


def read_text_table(
  file: pathlib.Path,
  columns: Sequence[str | int] | None = None,
  header: bool | None = None,
) -> TextTable:
  """Reads a table of numbers.

  Columns are separated by commas, in a `.tsv` by tabs. Empty lines and lines that begin with '#'
  are skipped. A row index as pandas writes it (an unnamed first column of unique whole numbers) is
  dropped, and so is a column without any value.

  Args:
    file: a UTF-8 file.
    columns: names of the requested columns, in this order, or their positions '0', '1', ... if the
      table has no header; None for all.
    header: whether the first line has the names; None decides by its cells. Cells are names if they
      are not numbers, or if they are '0', '1', ... above numbers with a fraction, as pandas writes
      them.

  Raises:
    ValueError: the table cannot be read with these options.
  """
  try:
    text = file.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError("is not a text file of numbers in UTF-8") from error
  separator = "\t" if file.suffix.lower() == ".tsv" else ","
  try:
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
  except csv.Error as error:
    raise ValueError("is not a text file of numbers") from error
  numbered = [(i, [cell.strip() for cell in line]) for i, line in enumerate(lines, start=1)]
  filled = [(i, line) for i, line in numbered if any(line)]
  rows = [(i, line) for i, line in filled if not line[0].startswith("#")]
  remarks = []
  if comments := len(filled) - len(rows):
    remarks.append(f"{comments} {'line' if comments == 1 else 'lines'} of comments passed over")
  if not rows:
    raise ValueError("holds no points")
  names = rows.pop(0)[1] if _is_header(rows, columns, header) else None
  width = len(names) if names is not None else len(rows[0][1])
  for number, row in rows:
    if len(row) != width:
      advice = _other_separator(row)
      raise ValueError(f"line {number} has {len(row)} columns, not {width}{advice}")
  if columns is not None:
    index = _chosen(columns, names, width)
  else:
    dropped = _dropped(rows, names)
    index = [i for i in range(width) if i not in dropped]
    remarks += [f"dropped: {reason}" for reason in dropped.values()]
  values = _numbers(rows, names, index)
  known = names or [str(i) for i in range(width)]
  if columns is None and len(index) > 1:
    for place, i in enumerate(index):
      if _counts_rows(values[:, place]):
        others = ", ".join(repr(known[j]) for j in index if j != i)
        remarks.append(
          f"column {known[i]!r} only numbers the rows: target.columns = ({others},) leaves it out"
        )
  chosen = None if names is None else tuple(names[i] for i in index)
  return TextTable(values, chosen, tuple(remarks))


def _is_header(
  rows: Sequence[Line], columns: Sequence[str | int] | None, header: bool | None
) -> bool:
  """Returns True if the first line has names. Raises ValueError if both readings make sense."""
  if header is not None:
    return header
  first = rows[0][1]
  if any(cell and _number(cell) is None for cell in first):
    return True
  has_index = len(first) > 1 and not first[0]
  cells = first[1:] if has_index else first
  if cells != [str(i) for i in range(len(cells))] or len(rows) == 1:
    return False
  asked = columns is not None and all(str(column) in cells for column in columns)
  below = (cell for _, row in rows[1:] for cell in row)
  if has_index or asked or (len(cells) > 1 and not all(cell.isdigit() for cell in below)):
    return True
  raise ValueError(
    f"line {rows[0][0]}, {','.join(first)!r}, may be names, as pandas writes them, or a point: set "
    "target.header = True or False"
  )


def _chosen(columns: Sequence[str | int], names: Sequence[str] | None, width: int) -> list[int]:
  known = [str(i) for i in range(width)] if names is None else list(names)
  for column in map(str, columns):
    if names is None and column not in known:
      raise ValueError(
        f"columns = {tuple(columns)} need a first line of names; without one they are "
        f"'0' to '{width - 1}'"
      )
    if known.count(column) != 1:
      said = "twice in it" if column in known else f"not in it{did_you_mean(column, known)}"
      raise ValueError(f"column {column!r} is {said} (known: {', '.join(known)})")
  return [known.index(str(column)) for column in columns]


def _dropped(rows: Sequence[Line], names: Sequence[str] | None) -> dict[int, str]:
  """Returns the reason to drop a column, by the position of the columns that are no coordinates."""
  dropped = {}
  for i in range(len(rows[0][1]) if rows else 0):
    cells = [row[i] for _, row in rows]
    unnamed = names is None or _UNNAMED.fullmatch(names[i])
    if unnamed and not any(cells):
      dropped[i] = f"column {i + 1}, which is empty"
    elif names is not None and unnamed:
      numbers = {cell for cell in cells if cell.isdigit()}
      if i or len(numbers) < len(cells):
        raise ValueError(f"column {i + 1} has no name: name it, or choose others by target.columns")
      dropped[i] = "the first column, a row index without a name"
  return dropped


def _numbers(rows: Sequence[Line], names: Sequence[str] | None, index: Sequence[int]) -> np.ndarray:
  """Parses the chosen cells as numbers [n, k]. Raises ValueError for the first that is not one."""
  values = [[_number(row[i]) for i in index] for _, row in rows]
  for (number, row), found in zip(rows, values, strict=True):
    if None in found:
      place = found.index(None)
      column = [line[place] for line in values]
      said = f"line {number}: {row[index[place]]!r} is not a number"
      raise ValueError(said + _remedy(rows, names, index, place, column))
  return np.array(values, float).reshape(len(rows), len(index))


def _remedy(
  rows: Sequence[Line],
  names: Sequence[str] | None,
  index: Sequence[int],
  place: int,
  column: Sequence[float | None],
) -> str:
  """Returns advice on the first cell of a column that is not a number."""
  cells = [row[index[place]] for _, row in rows]
  bad = [cell for cell, value in zip(cells, column, strict=True) if value is None]
  known = names or [str(i) for i in range(len(rows[0][1]))]
  named = f"column {known[index[place]]!r}"
  if all(cell.lower() in _GAPS for cell in bad):
    return (
      f": {named} has gaps in {len(bad)} of {len(cells)} lines: fill them, or drop these lines as "
      "pandas.DataFrame.dropna does"
    )
  line = next(row for _, row in rows if row[index[place]] == bad[0])
  if advice := _other_separator(line):
    return advice
  if _DECIMAL_COMMA.fullmatch(bad[0]):
    rewriting = _rewriting("\t", decimal_commas=True)
    return f": write decimals with a point, as {rewriting} does"
  if len(parts := bad[0].split()) > 1 and None not in map(_number, parts):
    return ": separate columns by commas, not by spaces"
  if len(bad) < len(cells) or len(cells) == 1:
    return f" ({named}, {len(bad)} of {len(cells)} lines)"
  numeric = [
    known[i] for i in range(len(known)) if all(_number(row[i]) is not None for _, row in rows)
  ]
  if not numeric:
    return f": no column of this table is all numbers ({named} is text)"
  chosen = ", ".join(map(repr, numeric)) + ("," if len(numeric) == 1 else "")
  return f": {named} is text; choose columns of numbers by target.columns = ({chosen})"


def _other_separator(row: Sequence[str]) -> str:
  """Returns advice on a line that uses another separator; '' if it does not."""
  for separator in _OTHER_SEPARATORS:
    if any(separator in cell for cell in row):
      rewriting = _rewriting(separator, decimal_commas=len(row) > 1)
      return f": separate columns by commas, as {rewriting} does"
  return ""


def _rewriting(separator: str, decimal_commas: bool) -> str:
  decimal = ", decimal=','" if decimal_commas else ""
  return f"pandas.read_csv(path, sep={separator!r}{decimal}).to_csv(new_path, index=False)"


def _counts_rows(column: np.ndarray) -> bool:
  """Returns True if a column is 0, 1, 2, ... or 1, 2, 3, ..."""
  start = column[0] if len(column) > 2 else np.nan
  return start in (0, 1) and np.array_equal(column, start + np.arange(len(column)))


def _number(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None
