"""Configs: their fields, the options of components, and the command line.

Importing this package does not import JAX, so that mistakes are reported at once.
"""
