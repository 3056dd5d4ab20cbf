"""Configs: their fields, options of parts, and the command line.

Nothing here imports JAX when it is imported, so that a mistake is answered at once.
"""
