"""Forward processes x_t = alpha(t) x_0 + sigma(t) eps on t in [0, 1], levels, and grids of them."""

from collections.abc import Callable

from scorelab.schedules.continuous import (
  Cosine,
  CosineFlow,
  GaussianChannel,
  Laplace,
  LinearFlow,
  Sigmoid,
  SubVP,
  VariancePreserving,
)
from scorelab.schedules.discrete import (
  BETAS,
  Discrete,
  cosine_betas,
  discrete,
  linear_betas,
  scaled_linear_betas,
  sigmoid_betas,
  vp_betas,
)
from scorelab.schedules.exploding import (
  GeometricVarianceExploding,
  SigmaPower,
  VarianceExploding,
)
from scorelab.schedules.grid import Grid
from scorelab.schedules.grids import (
  given_log_snrs,
  karras,
  quadratic,
  ratio_ends,
  timesteps,
  uniform,
  uniform_log_snr,
)
from scorelab.schedules.level import PROCESSES, Level, require_time, rescaled, safe_sqrt
from scorelab.schedules.schedule import Schedule
from scorelab.schedules.sde import forward_path, reverse_drift
from scorelab.schedules.shifted import Shifted
from scorelab.schedules.tabulated import Tabulated
from scorelab.validation import Registry

SCHEDULES: dict[str, Callable[..., Schedule]] = Registry("schedule") | {
  "variance_exploding": VarianceExploding,
  "geometric_variance_exploding": GeometricVarianceExploding,
  "sigma_power": SigmaPower,
  "variance_preserving": VariancePreserving,
  "sub_vp": SubVP,
  "cosine": Cosine,
  "sigmoid": Sigmoid,
  "laplace": Laplace,
  "linear_flow": LinearFlow,
  "cosine_flow": CosineFlow,
  "gaussian_channel": GaussianChannel,
  **{name: discrete(betas) for name, betas in BETAS.items()},
}

GRIDS: dict[str, Callable[..., Grid]] = Registry("grid") | {
  "uniform": uniform,
  "quadratic": quadratic,
  "timesteps": timesteps,
  "karras": karras,
  "uniform_log_snr": uniform_log_snr,
  "geometric": uniform_log_snr,  # in sigma / alpha
  "given": given_log_snrs,
}

__all__ = [
  "BETAS",
  "GRIDS",
  "PROCESSES",
  "SCHEDULES",
  "Cosine",
  "CosineFlow",
  "Discrete",
  "GaussianChannel",
  "GeometricVarianceExploding",
  "Grid",
  "Laplace",
  "Level",
  "LinearFlow",
  "Schedule",
  "Shifted",
  "SigmaPower",
  "Sigmoid",
  "SubVP",
  "Tabulated",
  "VarianceExploding",
  "VariancePreserving",
  "cosine_betas",
  "forward_path",
  "given_log_snrs",
  "karras",
  "linear_betas",
  "quadratic",
  "ratio_ends",
  "require_time",
  "rescaled",
  "reverse_drift",
  "safe_sqrt",
  "scaled_linear_betas",
  "sigmoid_betas",
  "timesteps",
  "uniform",
  "uniform_log_snr",
  "vp_betas",
]
