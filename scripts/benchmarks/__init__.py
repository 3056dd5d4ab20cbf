"""What scripts/benchmark.py times: a file for each group of cases, and what times them.

`sides` are built in processes of their own (`worker`), `matches` time them in turn, beside `limits`
of the machine; `table` is the table of it in docs/speed.md.
"""
