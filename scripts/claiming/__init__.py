"""Bindings of scripts/claims.py: which committed number stands behind each number in prose.

`checking` reads prose and compares, `sources` reads files and configs; `pages` and `configs` have
the bindings, `exempt` what is not a claim.
"""
