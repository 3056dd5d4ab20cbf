"""Samplers, from noise to data along a grid, and Langevin kernels, which stay at one law.

Each is a scan over a pure step that takes its noise as an argument.
"""

from scorelab.samplers.ancestral import ancestral, ancestral_step, renoise, renoise_step
from scorelab.samplers.annealing import annealed_langevin, ncsnv2_step_size
from scorelab.samplers.ddim import ddim, ddim_inference, ddim_step
from scorelab.samplers.diagnostics import effective_sample_size, split_rhat
from scorelab.samplers.euler_time import euler_time
from scorelab.samplers.langevin import Chain, Kernel, MalaState, mala, mala_step, ula, ula_step
from scorelab.samplers.multistep import dpmpp_2m, dpmpp_2m_step
from scorelab.samplers.ode import churned, euler, heun, heun_correction
from scorelab.samplers.underdamped import KineticState, baoab_step, underdamped_langevin
from scorelab.typing import Sampler

SAMPLERS: dict[str, Sampler] = {
  "ancestral": ancestral,
  "annealed_langevin": annealed_langevin,
  "ddim": ddim,
  "dpmpp_2m": dpmpp_2m,
  "euler": euler,
  "euler_time": euler_time,
  "heun": heun,
  "renoise": renoise,
}

KERNELS: dict[str, Kernel] = {
  "mala": mala,
  "ula": ula,
  "underdamped_langevin": underdamped_langevin,
}

__all__ = [
  "KERNELS",
  "SAMPLERS",
  "Chain",
  "Kernel",
  "KineticState",
  "MalaState",
  "ancestral",
  "ancestral_step",
  "annealed_langevin",
  "baoab_step",
  "churned",
  "ddim",
  "ddim_inference",
  "ddim_step",
  "dpmpp_2m",
  "dpmpp_2m_step",
  "effective_sample_size",
  "euler",
  "euler_time",
  "heun",
  "heun_correction",
  "mala",
  "mala_step",
  "ncsnv2_step_size",
  "renoise",
  "renoise_step",
  "split_rhat",
  "ula",
  "ula_step",
  "underdamped_langevin",
]
