"""What scripts/figures.py draws: one file for each reproduced system, and what they share."""
