"""Trials of scripts/chaos.py."""
