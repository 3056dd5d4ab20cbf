"""Samplers, from noise to data along a grid, and Langevin kernels, which keep one law invariant.

A sampler is a scan of a pure step over the levels t_0 > t_1 > ... > t_N of a grid,

    x_{i+1} = step(predict(x_i, t_i), t_i, t_{i+1}, z_i)        z_i ~ N(0, I)

and takes z_i from a key or from another noise source: `RecordedNoise`, `ZeroNoise`.
"""

from scorelab.samplers import kernel_registry, sampler_registry
from scorelab.samplers.adaptive import AdaptiveSamples, adaptive_ode
from scorelab.samplers.ancestral import ancestral_step, renoise_step
from scorelab.samplers.annealing import ncsnv2_step_size
from scorelab.samplers.consistency import consistency_step
from scorelab.samplers.ddim import ddim_inference, ddim_step, noise_shares, renewing_step
from scorelab.samplers.diagnostics import effective_sample_size, split_rhat
from scorelab.samplers.kernel_registry import *
from scorelab.samplers.langevin import Chain, Kernel, MalaState, mala_step, ula_step
from scorelab.samplers.noise import KeyNoise, Noise, RecordedNoise, ZeroNoise, as_noise
from scorelab.samplers.ode import churned, rk4_step, slope_correction
from scorelab.samplers.sampler_registry import *
from scorelab.samplers.sde import corrector_step
from scorelab.samplers.underdamped import KineticState, baoab_step
from scorelab.typing import Sampler, Samples
from scorelab.validation import Registry, parts_of

SAMPLERS: dict[str, Sampler] = Registry("sampler", parts_of(sampler_registry))
KERNELS: dict[str, Kernel] = Registry("kernel", parts_of(kernel_registry))
