"""Forward processes x_t = alpha(t) x_0 + sigma(t) eps on t in [0, 1], levels, and grids of them."""

from collections.abc import Callable

from scorelab.schedules.base import (
  PROCESSES,
  Grid,
  Level,
  Schedule,
  Tabulated,
  require_time,
  safe_sqrt,
)
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
from scorelab.schedules.grids import karras, quadratic, timesteps, uniform, uniform_log_snr
from scorelab.schedules.sde import forward_path, reverse_drift
from scorelab.schedules.shifted import Shifted

SCHEDULES: dict[str, Callable[..., Schedule]] = {
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

GRIDS: dict[str, Callable[..., Grid]] = {
  "uniform": uniform,
  "quadratic": quadratic,
  "karras": karras,
  "timesteps": timesteps,
  "uniform_log_snr": uniform_log_snr,
  "geometric": uniform_log_snr,  # in sigma / alpha
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
  "karras",
  "linear_betas",
  "quadratic",
  "require_time",
  "reverse_drift",
  "safe_sqrt",
  "scaled_linear_betas",
  "sigmoid_betas",
  "timesteps",
  "uniform",
  "uniform_log_snr",
  "vp_betas",
]
