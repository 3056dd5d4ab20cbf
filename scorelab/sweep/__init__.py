"""Plans, runs and reports sweeps: many runs of one config."""
