"""Cases of scripts/benchmark.py: a module per group of cases, and the timing code.

`sides` are built in processes of their own (`worker`), `matches` time them in turn, next to
`limits` of the machine; `table` writes the table of docs/speed.md.
"""
