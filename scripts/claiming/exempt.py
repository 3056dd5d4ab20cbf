"""Numbers in prose that are not claims: short patterns by page, each with a reason."""

from __future__ import annotations

EVERYWHERE = (
  r"N\(0, (\d+ )?I\)",  # a law
  r"\b(8 by 8|32 by 32|128 by 128)\b",  # shapes of images
  r"\bT = 1000\b",  # a chain's length, as its name says
  r"(t|sigma|eta|alpha) = [01]\b",  # ends and options
  r"kill -9|code \d+|on [12] CPU cores?",
  r"sqrt\([^)]*\(2 v\)\)\)",  # a formula
)

PAGES: dict[str, tuple[str, ...]] = {
  "README.md": (
    r"Python 3\.11",  # pyproject.toml; tests/e2e/test_packaging.py
    r"Apache-2\.0",
    r"a ratio below 1\b",
    r"at least 90 %",  # pyproject.toml's fail_under
  ),
  "docs/dependencies.md": (r"NumPy 1,",),
  "docs/parts.md": (
    r"diffusion of 2015",
    r"a scale of 1 is",
    r"order 1 and 2,",
    r"\^\(1/p\), p = 2 unless",
  ),
  "docs/published.md": (r"at eta = 1", r"of the 95"),
  "docs/results.md": (r"a ratio may fall below 1 by",),
  "docs/pareto.md": (
    r"A ratio below 1 is",
    r"on the best of 37 grids at\s+each budget of 4, 8, 16, 32, 64 and 128",  # exact_budgets.py
    r"the two best of 37 stock grids",  # scripts/few_evaluations.py, here and below
    r"of 2000 samples against 10,000:\s+as expected",
    r"1 \+ distance / floor",
    r"measured with 20 keys",
  ),
  "docs/samplers.md": (
    r"alpha, 1 - beta",
    r"alpha is 1 and",
    r"h = 2 \(snr",
    r"multiplies h by 1 - beta",
    r"\(index 0\)",
    r"costs 2 N - 1, as",
    r"N \+ 1 entries",
    r"renews: 0 is deterministic, 1 is DDPM's",
    r"here eta is 0 unless given, and 1 there",
    r"sqrt\(1 - exp\(-2 eta h\)\)",
    r"\(1 \+ eta\^2\) / 2",
    r"1 \+ min\(churn / N, sqrt\(2\) - 1\)",
    r"the last step goes to step 0,",
    r"takes 2 per step,",  # draws of noise
    r"`corrector_steps` \+ 1,",
    # tests/core/exact/test_orders.py measures the orders, those of the text too
    r"<!-- orders -->.*?<!-- /orders -->",
    r"with this table to 0\.02",
    r"its method is of order 5",
    r"`ipndm` of order 3 and 4\. They reach order 3 only",
    r"keeps order 3 if its last",
  ),
  "docs/guidance.md": (
    r"q_t\(x\)\^\(1-w\)",
    r"scales from 0 on",
    r"ICML 2025,\s+\[arXiv 2503\.02819\]",
    # tests/core/exact/test_guided_laws.py
    r"With p\(x \| c\) = N\(0, 1\) and p\(x\) = N\(0, 2\).*?/ \(2w - 1\)",
    r"guides by 1 \+ .*?\^2\)",
    # The settings of scripts/annealing.py, and the source of the numbers next to its own.
    r"p\(x\)\^3",
    r"follow\s+3 times",
    r"on 40 modes in the plane with 10,000 samples and 1,000\s+steps, and compares 2,500",
    r"of table A1 of Skreta et al\. \(2025\): 40 modes",
    r"rises from 1 to 3 late",
  ),
  "docs/exact.md": (
    r"about 1e-10 of it",  # tests/core/exact: the tolerances
    r"3072 axes and 1000 steps",  # tests/core/exact/test_exact_laws.py
    r"ICML 2025, \[arXiv 2405\.14250\]",
    r"with 8 steps on two modes 20 apart",  # tests/core/exact/test_flows.py
    r"on 37 grids .*, with 4 to 128 evaluations",  # scripts/exact_budgets.py
    r"a Gaussian in 64\s+dimensions with variances k\^-1\.5",  # the same
    r"`lms` of order 4",  # scorelab/samplers/adams.py
    r"25 samplers on a Gaussian and of 14 on two modes",  # tests/e2e/test_exact_budgets.py
  ),
  "docs/speed.md": (r"at least 256 MiB", r"above 1 scorelab is faster", r"GPU of 2022"),
  "configs/cond_gmm.py": (r"p\(x\)\^\(1-w\)",),
  "configs/diffusion2015_swissroll.py": (r"of 2015",),
  "configs/diffusion2015_swissroll_published.py": (r"of 2015",),
  "configs/edm_gmm.py": (r"et al\. 2022",),
  "configs/hyvarinen_gmm_published.py": (r"a score of nothing has 1\b",),
  "configs/pretrained.py": (r"eta 0 and 1",),
  "configs/ddpm_flowers.py": (r"Flowers 102", r"GPUs of 2022"),
}
