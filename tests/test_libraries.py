"""scripts/libraries.py: what is timed side by side gives the same samples."""

import pytest

from scripts import libraries


def test_diffusers_loops_give_our_samples(monkeypatch):
  """`matched` compares every pair before it is timed, of one network in PyTorch and in Flax."""
  pytest.importorskip("torch")
  pytest.importorskip("diffusers")
  monkeypatch.setattr(libraries, "NUM_STEPS", 12)
  monkeypatch.setattr(libraries, "SIZES", (5,))
  network, params, in_torch = libraries.make_networks()
  pairs = libraries.matched("diffusers", libraries.diffusers_loops(in_torch), network, params)
  assert len(pairs) == 3
