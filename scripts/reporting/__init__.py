"""Collects runs and renders them as the page of scripts/report.py."""
