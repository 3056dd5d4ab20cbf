"""Collects runs and renders them as one page: numbers, charts and pictures."""
