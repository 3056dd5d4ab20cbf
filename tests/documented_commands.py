"""Finds the commands in the project's documentation, and says how each is run at small size."""

import ast
import dataclasses
import importlib.util
import itertools
import re

from tests.paths import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "docs/*.md"]
MODULES = ["main.py", "scorelab/__main__.py", "scorelab/cli/*.py", "scripts/*.py"]
MODULES += ["configs/*.py", "docs/*.py"]

_PROGRAMS = r"python|pip|pytest|scorelab(?:-\w+)?|mkdocs|pre-commit|\.ci/run|\.venv/bin/\w+"
_COMMAND = re.compile(rf"(?:{_PROGRAMS}) +[^ =]")
_FLAGS = re.compile(r"--(?:config\.[\w.]+=|mode=|distributed|tensorboard)")
_FILE = re.compile(r"(?<![\w./<-])(?:configs|scripts|tests|docs)/[\w/]+\.(?:py|md|csv)\b")

# One config of each system is run here.
SYSTEMS = "ncsn_gmm|ddpm_circles|diffusion2015_swissroll|sbgm_digits|ddpm_digits"
# Commands that are not run here, by what they start with or hold: (pattern, reason).
EXCUSED = {
  rf"main\.py --config=configs/(?!(?:{SYSTEMS})\.py)\w+\.py(?::fast)?$": (
    "tests/e2e/test_main.py runs every config with -m slow"
  ),
  r"^python scripts/(annealing|exact_budgets|few_evaluations|guidance)\.py": (
    "tests/e2e has a test that runs its main with --fast"
  ),
  r"-m venv": "`.ci/run` runs both of the README's in a fresh environment",
  r"^(python -m |\.venv/bin/)?pip ": "needs a package index; `.ci/run` installs",
  r"^pre-commit|^mkdocs": "changes .git/hooks, or serves a site; tests/e2e/test_docs.py builds it",
  r"^\.ci/run|^pytest (?:tests )?-n|^\.venv/bin/pytest": "runs the tests themselves",
  r"^pytest -m slow": "two thousand cases; `.ci/run slow` runs them",
  r"sampler\.my_module\.f$": "a module of one's own; test_options_command.py has one",
  r"^scorelab (?!options)|^python -m scorelab$": "from a wheel; test_packaging.py runs it",
  r"ralston|sampler\.node|absolute_noise|loss\.power|linear_variance|=cubic|triangle|mean_error"
  r"|gated_mlp": ("needs the file of the recipe; tests/experiment/test_contributing.py runs it"),
  r"^python scripts/(?:sweep|export)\.py$": "names the program alone",
  r"compare_checkouts": "needs another checkout; test_compare_checkouts.py compares this one",
  r"--distributed|--coordinator": "several processes; tests/e2e/test_sharding.py runs them",
  r"configs/(cond_cifar10|ddpm_cifar10|ddpm_flowers)\.py": "needs its data set",
  r"pretrained\.path=google/": "needs the hub",
  r"--serve": "serves until it is stopped; tests/e2e/reporting/test_report.py asks it for its page",
  r"--engine=": "needs a cluster; test_sweep.py runs each engine on this machine",
  r"licences\.py": "needs all packages of constraints.txt installed",
  r"scripts/chaos\.py (kills|full_disk|all|--config=configs/ncsn)": (
    "minutes of kills; tests/e2e/test_chaos.py runs each with -m slow"
  ),
  r"scripts/mutants\.py(?! --check)": "hours; tests/e2e/test_mutants.py tries three mutants",
  r"scripts/benchmark\.py( --quick.*)?$": "all cases; test_benchmark.py runs each, -m slow",
}
# Extras without which a command is left out: (pattern, module).
EXTRAS = {r"--optuna": "optuna", r"--tensorboard": "tensorboardX", r"throughput.*--torch": "torch"}

# What makes a command small: (pattern, replacement), in this order.
# Networks of images take seconds a step, and metrics in features train a network.
_FEW_STEPS = (
  "--config.training.num_steps=2 --config.training.log_every=1 "
  "--config.training.checkpoint_every=2 --config.training.keep_every=0 "
  "--config.evaluation.metrics=\"('frechet',)\""
)
_ONE_ROW = (
  "--config.evaluation.rows=() --config.evaluation.score_levels=() "
  "--config.evaluation.metrics=\"('energy_distance',)\""
)
_RUN = r"results/\w+/<run id>"
_TINY = "--side 16 --dim 8 --batches 2 --steps 2 --matmul 64 --precisions float32"
SMALLER = (
  (r"^scorelab options", "python -m scorelab options"),
  (r"^\.venv/bin/python", "python"),
  (r"^scorelab-(\w+)", r"python scripts/\1.py"),
  (r"(--config=\S*configs/\w+\.py)(?![\w:])", r"\1:fast"),
  (r"training\.num_steps=\d+", "training.num_steps=60"),
  (r"(--config=configs/(?:ddpm_digits|dit_digits|ddpm_patches)\.py:fast)", rf"\1 {_FEW_STEPS}"),
  (r"(--config=configs/ncsn_gmm\.py:fast)(?= -)", rf"\1 {_ONE_ROW}"),
  (r"ensemble\.seeds=\d+", "ensemble.seeds=2"),
  (r"num_keys=\d+", "num_keys=2"),
  (r"--repeats \d+", "--repeats 2"),
  (r"network\.width=128,256", "network.width=16,32"),
  (r"learning_rate=1e-3,3e-3,1e-2", "learning_rate=1e-3,1e-2"),
  (r"eta=0,\.1,\.5,1", "eta=0,1"),
  (r"likelihood_points=\d+", "likelihood_points=8"),
  (r"evaluation\.exact=True", "evaluation.exact=True --config.network.width=8"),
  (rf"(scripts/figures\.py \w+ --workdir {_RUN})", r"\1 --keys 2"),
  (rf"(scripts/figures\.py ncsn_gmm --workdir {_RUN} --keys 2)$", r"\1 --only loss"),
  (rf"(scripts/figures\.py cond_digits --workdir {_RUN} --keys 2)$", r"\1 --only stopping"),
  (r"(scripts/optimise_grid\.py.*)", r"\1 --iterations 2 --keys 2 --size 50"),
  (r"scripts/(wander|circles|score_matching)\.py$", r"scripts/\1.py --seeds 1 --fast"),
  (r"(scripts/circles\.py .*)", r"\1 --config one_step_circles"),
  (r"(scripts/pareto\.py)(?! .*--fast)(.*)", r"\1\2 --fast"),
  (r"(scripts/posteriors\.py)(?: --reference)?(?! .*--fast)(.*)", r"\1\2 --fast"),
  (r"(scripts/benchmark\.py \w.*)", r"\1 --quick --out results/benchmarks"),
  (r"(scripts/chaos\.py)$", r"\1 --config.training.num_steps=200"),
  (r"(scripts/chaos\.py.*)", r"\1 --kills 1"),
  (r"(scripts/reproduce\.py .*(?:--all|C D|SYSTEM))$", r"\1 --fast"),
  (r"(scripts/throughput\.py.*)", rf"\1 {_TINY}"),
  (r"--(seeds|random|optuna) \d+", r"--\1 1"),
  (r"(scripts/sweep\.py(?!.*--jobs).*)", r"\1 --out results/stand_in"),
)
# Lines of Python that make a script's own tables small, before its `main` is called.
SMALL_TABLES = {
  "pareto": """
script.ENTRIES = [entry for entry in script.ENTRIES if entry.sampler == "heun"]
script.TARGETS = {name: script.TARGETS[name] for name in ("nine_modes", "ring")}
""",
  "score_matching": """
script.BUDGETS = (2,)
script.STUDIES = {"levels": (script.at_levels, ("ncsn",))}
""",
  "reproduce": """
small = dict(configs=(), studies=(), sheets=("digits",))
script.SYSTEMS = {k: dataclasses.replace(v, **small) for k, v in script.SYSTEMS.items()}
""",
  # One sweep runs main.py, the others what stands in for it in tests/sweeping.
  "sweep": """
if "--jobs" not in sys.argv:
  stand_in = [sys.executable, "tests/e2e/sweeping/stand_in.py"]
  script.main = functools.partial(script.main, program=stand_in)
""",
}


@dataclasses.dataclass(frozen=True)
class Command:
  """A documented command.

  Attributes:
    text: as it is typed, on one line.
    place: where it was found first, file:line.
  """

  text: str
  place: str

  @property
  def missing(self):
    """The files that it names and that do not exist."""
    return [name for name in _FILE.findall(self.text) if not (ROOT / name).exists()]

  @property
  def excuse(self):
    """Why it is not run, here or elsewhere, or None."""
    return next(
      (reason for pattern, reason in EXCUSED.items() if re.search(pattern, self.text)), None
    )

  @property
  def extra(self):
    """The extra that it needs and that is not installed, or None."""
    needed = [module for pattern, module in EXTRAS.items() if re.search(pattern, self.text)]
    return next((module for module in needed if importlib.util.find_spec(module) is None), None)

  @property
  def group(self):
    """Commands of a group share a finished run: those of a config, or of a script."""
    config = re.search(r"configs/(\w+)\.py", self.text)
    script = re.search(r"scripts/(\w+)\.py|^scorelab-(\w+)", self.text)
    found = script or config
    return found[found.lastindex] if found else self.text.split()[0]

  def small(self):
    """The same command at small size, without placeholders of choice."""
    text = " ".join(self.text.split())
    for pattern, replacement in SMALLER:
      text = re.sub(pattern, replacement, text)
    text = text.replace("[", "").replace("]", "") if "[--" in text else text
    return text.replace("SYSTEM", "C").replace("NAME/ID", "ddpm_digits/<run id>")


def _blocks(text):
  """(line number, text) of what a Markdown page shows as code: fences, indented lines, spans."""
  lines, fence, plain = text.splitlines(), None, []
  for number, line in enumerate(lines, 1):
    if line.lstrip().startswith("```"):
      fence = None if fence else line.strip()[3:] or "text"
      plain.append("")
      continue
    plain.append("" if fence else line)
    if fence == "bash" or (fence is None and line.startswith("    ")):
      yield number, line
  for span in re.finditer(r"`([^`]+)`", "\n".join(plain)):
    yield "\n".join(plain)[: span.start()].count("\n") + 1, " ".join(span[1].split())


def _docstring_blocks(source):
  """The same of a module's docstring, and of the comments of a page that is a script."""
  docstring = ast.get_docstring(ast.parse(source), clean=False) or ""
  comments = "\n".join(line[2:] if line.startswith("# ") else "" for line in source.splitlines())
  for text in (docstring, comments):
    for number, line in enumerate(text.splitlines(), 1):
      if _COMMAND.match(line.strip()) or line.startswith("      --"):  # the line before's rest
        yield number, line
    yield from (found for found in _blocks(text) if "`" not in found[1])


def _expanded(line):
  """A loop's turns: 'for x in a b; do ... $x; done' as its commands."""
  loop = re.fullmatch(r"for (\w+) in ([^;]+); do (.*); done", line)
  if loop is None:
    return [line]
  return [loop[3].replace(f"${loop[1]}", value) for value in loop[2].split()]


def _joined(blocks):
  """Lines that end in a backslash with the next, and loops on one line."""
  pending, start = "", 0
  for number, line in blocks:
    text = re.sub(r"\s+#\s.*$", "", line).strip()
    pending, start = (f"{pending} {text}", start) if pending else (text, number)
    if pending.endswith("\\"):
      pending = pending[:-1].rstrip()
      continue
    if pending.startswith("for ") and not pending.endswith("done"):
      pending += "" if pending.endswith("do") else ";"
      continue
    yield from ((start, command) for command in _expanded(pending.replace("; done;", "; done")))
    pending = ""


def find():
  """Every documented command once, in the order of the files."""
  found = {}
  for pattern in itertools.chain(PAGES, MODULES):
    for file in sorted(ROOT.glob(pattern)):
      text = file.read_text()
      blocks = _blocks(text) if file.suffix == ".md" else _docstring_blocks(text)
      for number, line in _joined(blocks):
        if _FLAGS.match(line) and "NAME" not in line:
          line = f"python main.py --config=configs/ncsn_gmm.py {line}"  # noqa: PLW2901
        for part in line.split(" && "):
          if _COMMAND.match(part) or part == ".ci/run":
            place = f"{file.relative_to(ROOT)}:{number}"
            found.setdefault(part, Command(part, place))
  return list(found.values())
