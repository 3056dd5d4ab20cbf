"""Serves a page of runs to this machine alone; renders it again when files have changed."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

from scorelab.report.collect import find_runs, read_runs
from scorelab.report.page import render

_WATCHED = ("config.json", "metrics.jsonl", "evaluation.json", "stderr.txt", "FAILED", "DONE")


def version(places: Sequence[pathlib.Path]) -> str:
  """Returns a hash of names, sizes and times of all files of a page."""
  digest = hashlib.sha256()
  for run in find_runs(places):
    for path in [*(run / name for name in _WATCHED), *sorted((run / "figures").glob("*"))]:
      try:
        found = path.stat()
      except FileNotFoundError:
        continue
      digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
  return digest.hexdigest()


class Page:
  """The page of some places, rendered on request if files have changed."""

  def __init__(self, places: Sequence[pathlib.Path], command: str) -> None:
    self._places, self._command = places, command
    self._lock, self._made = threading.Lock(), ("", b"")

  def version(self) -> str:
    """Returns the version of the current files."""
    return version(self._places)

  def get(self) -> bytes:
    """The page, in UTF-8."""
    with self._lock:
      now = self.version()
      if self._made[0] != now:
        text = render(read_runs(self._places), self._command, live=True)
        self._made = (now, text.encode())
      return self._made[1]


def make_server(
  places: Sequence[pathlib.Path], port: int, command: str
) -> http.server.ThreadingHTTPServer:
  """A server of '/' and '/version' on 127.0.0.1; port 0 takes a free one.

  Raises:
    ReportError: there is nothing to show.
    OSError: the port is taken.
  """
  page = Page(places, command)
  page.version()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
      if self.path == "/":
        self._answer("text/html; charset=utf-8", page.get())
      elif self.path == "/version":
        self._answer("text/plain", page.version().encode())
      else:
        self.send_error(404)

    def _answer(self, kind: str, body: bytes) -> None:
      self.send_response(200)
      self.send_header("Content-Type", kind)
      self.send_header("Content-Length", str(len(body)))
      self.send_header("Cache-Control", "no-store")
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
      del format, args  # a request every three seconds

  return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)


def serve(places: Sequence[pathlib.Path], port: int, command: str) -> None:
  """Serves until Ctrl-C."""
  with make_server(places, port, command) as server:
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
      server.serve_forever()
