"""What scripts/sweep.py is made of."""
