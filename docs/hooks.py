"""Pages of the site that are made when it is built: the tutorial, and the reference."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

_OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")  # a link from docs/ to a file next to it
_PARTS = (
  *("schedules", "predictions", "targets", "networks", "losses", "samplers"),
  *("likelihood", "metrics", "exact", "inverse", "pretrained", "plotting", "typing"),
)


def on_files(files: Files, config: Any) -> Files:
  """Adds the tutorial as Markdown, and a page for each part of the package."""
  folder = pathlib.Path(config["docs_dir"])
  notebook = jupytext.read(folder / "tutorial.py", fmt="py:percent")
  notebook.metadata = {"kernelspec": {"language": "python", "name": "python3"}}
  _, _, tutorial = jupytext.writes(notebook, "md").split("---\n", 2)
  files.append(File.generated(config, "tutorial.md", content=tutorial))
  for name in sorted({name for page in folder.glob("*.md") for name in outside(page.read_text())}):
    files.append(File.generated(config, name, abs_src_path=str(folder.parent / name)))
  for part in _PARTS:
    page = reference(folder.parent / "scorelab", part)
    files.append(File.generated(config, f"reference/{part}.md", content=page))
  return files


def outside(text: str) -> list[str]:
  """Files of the repository that a page links to, outside docs/."""
  return _OUTSIDE.findall(text)


def on_page_markdown(markdown: str, **_: Any) -> str:
  """Points links to files outside docs/ to their copies in the site."""
  return _OUTSIDE.sub(r"](\1", markdown)


def reference(package: pathlib.Path, part: str) -> str:
  """The page of a part; what it only passes on from its files stands under these alone."""
  lines = [f"# {part.capitalize()}", f"::: scorelab.{part}"]
  modules = sorted(file.stem for file in (package / part).glob("[!_]*.py"))
  if modules:
    text = (package / part / "__init__.py").read_text()
    passes_on = "__all__" in text or "import *" in text
    options = ["show_submodules: false", *["members: false"] * passes_on]
    lines[-1] += "\n    options:" + "".join(f"\n      {option}" for option in options)
  return "\n\n".join(lines + [f"::: scorelab.{part}.{module}" for module in modules])
