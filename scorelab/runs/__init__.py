"""A run on its machine: its directory, checkpoints, signals, devices and processes."""
