"""Where the tests find the checkout and their data, and what belongs to the checkout."""

import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).absolute().parents[1]
TESTDATA = ROOT / "tests" / "testdata"


def git(folder, *arguments):
  """What git prints in a folder, as a user of its own."""
  identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
  command = ["git", "-C", str(folder), *identity, *arguments]
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def copy_checkout(to, only=("",)):
  """Copies the files that git does not ignore and whose paths begin as in `only`.

  The checkout may be no git repository (an unpacked archive): the index is one of its own.
  """
  with tempfile.TemporaryDirectory() as index:
    git(index, "init", "-q")
    places = (f"--git-dir={index}/.git", f"--work-tree={ROOT}")
    names = git(ROOT, *places, "ls-files", "-zo", "--exclude-standard").split("\0")
  for name in names:
    if name.startswith(tuple(only)) and (ROOT / name).is_file():
      (to / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(ROOT / name, to / name)
