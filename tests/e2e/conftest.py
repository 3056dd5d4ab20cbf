"""Marks every test of this folder e2e: they start processes, draw or take long."""

import pathlib

import pytest


def pytest_collection_modifyitems(items):
  for item in items:
    if pathlib.Path(__file__).parent in item.path.parents:
      item.add_marker(pytest.mark.e2e)
