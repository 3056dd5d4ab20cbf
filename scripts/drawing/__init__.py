"""Figures of scripts/figures.py: a module per reproduced system, and shared code."""
