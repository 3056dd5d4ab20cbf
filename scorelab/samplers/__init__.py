"""Samplers: `(key, predict, x, grid, **options) -> Samples`, each a scan over a pure step."""

from scorelab.samplers.ddim import ddim, ddim_step
from scorelab.samplers.langevin import annealed_langevin, ula_step
from scorelab.samplers.multistep import dpmpp_2m, dpmpp_2m_step
from scorelab.samplers.ode import churned, euler, heun, heun_correction
from scorelab.typing import Sampler

SAMPLERS: dict[str, Sampler] = {
  "annealed_langevin": annealed_langevin,
  "ddim": ddim,
  "dpmpp_2m": dpmpp_2m,
  "euler": euler,
  "heun": heun,
}

__all__ = [
  "SAMPLERS",
  "annealed_langevin",
  "churned",
  "ddim",
  "ddim_step",
  "dpmpp_2m",
  "dpmpp_2m_step",
  "euler",
  "heun",
  "heun_correction",
  "ula_step",
]
