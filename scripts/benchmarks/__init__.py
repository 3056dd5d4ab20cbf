"""Cases of scripts/benchmark.py: a module per group of cases, and the timing code.

`timed_processes` builds the sides in processes of their own (`worker`), `paired_timing` times them
in turn, next to `limits` of the machine; `table` writes the table of docs/speed.md.
"""
