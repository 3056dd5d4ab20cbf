"""Grids that a config can name, one import each."""

from scorelab.schedules.grids import uniform
from scorelab.schedules.grids import quadratic
from scorelab.schedules.grids import timesteps
from scorelab.schedules.grids import karras
from scorelab.schedules.grids import uniform_log_snr
from scorelab.schedules.grids import uniform_log_snr as geometric  # in sigma / alpha
from scorelab.schedules.grids import spectral
from scorelab.schedules.grids import given_log_snrs as given
