"""Old import paths of modules that moved, for one release."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # `scorelab` imports this first, so nothing else is imported until it is used
if TYPE_CHECKING:
  from importlib.machinery import ModuleSpec
  from types import ModuleType

MOVED = {
  "checks": "experiment.compatibility",
  "checkpoints": "runs.checkpoints",
  "clipping": "predictions.clipping",
  "command_line": "config.command_line",
  "ensemble_evaluation": "evaluation.ensembles",
  "ensembles": "training.ensembles",
  "fingerprints": "data.fingerprints",
  "grid_search": "exact.grid_search",
  "guidance": "predictions.guidance",
  "image_files": "data.image_files",
  "images": "data.images",
  "likelihood_evaluation": "evaluation.likelihood",
  "options": "config.options",
  "parts": "experiment.components",
  "plotting.ensembles": "evaluation.ensemble_figures",
  "plotting.summary": "evaluation.figures",
  "pretrained.plain": "pretrained.native",
  "rows": "experiment.sampler_spec",
  "run": "runs.workdir",
  "samplers.memory": "samplers.history",
  "sampling": "evaluation.pretrained",
  "sharding": "runs.sharding",
  "tables": "evaluation.table",
  "text_tables": "data.text_tables",
}


class Finder:
  """Finds scorelab.<old name> and loads the module from its new path with a DeprecationWarning."""

  def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
    """Returns a spec for a module that moved; None for any other."""
    del path, target
    package, _, name = fullname.partition(".")
    if package != "scorelab" or name not in MOVED:
      return None
    from importlib.machinery import ModuleSpec

    return ModuleSpec(fullname, self)  # pyrefly: ignore[bad-argument-type]

  def create_module(self, spec: ModuleSpec) -> ModuleType:
    """Returns the module at its new path."""
    import importlib
    import warnings

    new = f"scorelab.{MOVED[spec.name.partition('.')[2]]}"
    warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
    module = importlib.import_module(new)
    spec.loader_state = module.__spec__
    return module

  def exec_module(self, module: ModuleType) -> None:
    """Restores the module's own spec; it has run already."""
    assert module.__spec__ is not None
    module.__spec__ = module.__spec__.loader_state


def install() -> None:
  """Makes the old paths importable."""
  sys.meta_path.append(Finder())  # pyrefly: ignore[bad-argument-type]
