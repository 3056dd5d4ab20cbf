"""Samplers, from noise to data along a grid, and Langevin kernels, which keep one law invariant.

A sampler is a scan of a pure step over the levels t_0 > t_1 > ... > t_N of a grid,

    x_{i+1} = step(predict(x_i, t_i), t_i, t_{i+1}, z_i)        z_i ~ N(0, I)

and takes z_i from a key or from another noise source: `RecordedNoise`, `ZeroNoise`.
"""

from scorelab.samplers.adams import deis, ipndm, lms, plms
from scorelab.samplers.adaptive import AdaptiveSamples, adaptive_ode
from scorelab.samplers.ancestral import ancestral, ancestral_step, renoise, renoise_step
from scorelab.samplers.annealing import annealed_langevin, ncsnv2_step_size
from scorelab.samplers.consistency import consistency, consistency_step
from scorelab.samplers.ddim import ddim, ddim_inference, ddim_step, noise_shares, renewing_step
from scorelab.samplers.diagnostics import effective_sample_size, split_rhat
from scorelab.samplers.euler_time import euler_time
from scorelab.samplers.langevin import Chain, Kernel, MalaState, mala, mala_step, ula, ula_step
from scorelab.samplers.multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde
from scorelab.samplers.noise import KeyNoise, Noise, RecordedNoise, ZeroNoise, as_noise
from scorelab.samplers.ode import (
  churned,
  dpm_solver_2,
  euler,
  heun,
  midpoint,
  rk4,
  rk4_step,
  slope_correction,
)
from scorelab.samplers.sde import (
  corrector_step,
  dpm_solver_2_ancestral,
  dpmpp_2s,
  dpmpp_2s_ancestral,
  dpmpp_sde,
  euler_maruyama,
  predictor_corrector,
)
from scorelab.samplers.singlestep import dpmpp_singlestep
from scorelab.samplers.underdamped import KineticState, baoab_step, underdamped_langevin
from scorelab.samplers.unipc import unipc
from scorelab.typing import Sampler, Samples
from scorelab.validation import Registry

SAMPLERS: dict[str, Sampler] = Registry("sampler") | {
  "ancestral": ancestral,
  "annealed_langevin": annealed_langevin,
  "consistency": consistency,
  "ddim": ddim,
  "deis": deis,
  "dpm_solver_2": dpm_solver_2,
  "dpm_solver_2_ancestral": dpm_solver_2_ancestral,
  "dpmpp_2m": dpmpp_2m,
  "dpmpp_2m_sde": dpmpp_2m_sde,
  "dpmpp_2s": dpmpp_2s,
  "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
  "dpmpp_3m": dpmpp_3m,
  "dpmpp_3m_sde": dpmpp_3m_sde,
  "dpmpp_sde": dpmpp_sde,
  "dpmpp_singlestep": dpmpp_singlestep,
  "euler": euler,
  "euler_time": euler_time,
  "euler_ancestral": ddim,  # the other libraries' name for it: their eta is ours
  "euler_maruyama": euler_maruyama,
  "heun": heun,
  "ipndm": ipndm,
  "kdpm2": dpm_solver_2,  # diffusers' name for it
  "lms": lms,
  "midpoint": midpoint,
  "plms": plms,
  "predictor_corrector": predictor_corrector,
  "renoise": renoise,
  "rk4": rk4,
  "unipc": unipc,
}

KERNELS: dict[str, Kernel] = Registry("kernel") | {
  "mala": mala,
  "ula": ula,
  "underdamped_langevin": underdamped_langevin,
}

__all__ = [
  "KERNELS",
  "SAMPLERS",
  "AdaptiveSamples",
  "Chain",
  "Kernel",
  "KeyNoise",
  "KineticState",
  "MalaState",
  "Noise",
  "RecordedNoise",
  "Samples",
  "ZeroNoise",
  "adaptive_ode",
  "ancestral",
  "ancestral_step",
  "annealed_langevin",
  "as_noise",
  "baoab_step",
  "churned",
  "consistency",
  "consistency_step",
  "corrector_step",
  "ddim",
  "ddim_inference",
  "ddim_step",
  "deis",
  "dpm_solver_2",
  "dpm_solver_2_ancestral",
  "dpmpp_2m",
  "dpmpp_2m_sde",
  "dpmpp_2s",
  "dpmpp_2s_ancestral",
  "dpmpp_3m",
  "dpmpp_3m_sde",
  "dpmpp_sde",
  "dpmpp_singlestep",
  "effective_sample_size",
  "euler",
  "euler_maruyama",
  "euler_time",
  "heun",
  "ipndm",
  "lms",
  "mala",
  "mala_step",
  "midpoint",
  "ncsnv2_step_size",
  "noise_shares",
  "plms",
  "predictor_corrector",
  "renewing_step",
  "renoise",
  "renoise_step",
  "rk4",
  "rk4_step",
  "slope_correction",
  "split_rhat",
  "ula",
  "ula_step",
  "underdamped_langevin",
  "unipc",
]
