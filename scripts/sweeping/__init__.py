"""Plans, runs and reports the sweeps of scripts/sweep.py."""
