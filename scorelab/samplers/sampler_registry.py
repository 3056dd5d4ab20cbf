"""Samplers that a config can name, one import each."""

from scorelab.samplers.ancestral import ancestral
from scorelab.samplers.annealing import annealed_langevin
from scorelab.samplers.consistency import consistency
from scorelab.samplers.ddim import ddim
from scorelab.samplers.adams import deis
from scorelab.samplers.ode import dpm_solver_2
from scorelab.samplers.sde import dpm_solver_2_ancestral
from scorelab.samplers.multistep import dpmpp_2m
from scorelab.samplers.multistep import dpmpp_2m_sde
from scorelab.samplers.sde import dpmpp_2s
from scorelab.samplers.sde import dpmpp_2s_ancestral
from scorelab.samplers.multistep import dpmpp_3m
from scorelab.samplers.multistep import dpmpp_3m_sde
from scorelab.samplers.sde import dpmpp_sde
from scorelab.samplers.singlestep import dpmpp_singlestep
from scorelab.samplers.ode import euler
from scorelab.samplers.euler_time import euler_time
from scorelab.samplers.ddim import ddim as euler_ancestral  # k-diffusion's name, same eta
from scorelab.samplers.sde import euler_maruyama
from scorelab.samplers.feynman_kac import feynman_kac
from scorelab.samplers.ode import heun
from scorelab.samplers.adams import ipndm
from scorelab.samplers.ode import dpm_solver_2 as kdpm2  # diffusers' name
from scorelab.samplers.adams import lms
from scorelab.samplers.ode import midpoint
from scorelab.samplers.adams import plms
from scorelab.samplers.sde import predictor_corrector
from scorelab.samplers.ancestral import renoise
from scorelab.samplers.ode import rk4
from scorelab.samplers.unipc import unipc
