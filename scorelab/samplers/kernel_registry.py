"""Langevin kernels that a config can name, one import each."""

from scorelab.samplers.langevin import mala
from scorelab.samplers.langevin import ula
from scorelab.samplers.underdamped import underdamped_langevin
