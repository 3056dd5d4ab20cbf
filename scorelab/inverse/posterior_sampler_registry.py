"""Samplers of posteriors that a config can name, one import each."""

from scorelab.inverse.decoupled import daps
from scorelab.inverse.loops import ddrm
from scorelab.inverse.loops import diffpir
from scorelab.inverse.loops import dps_steps
from scorelab.inverse.fps import fps_smc
from scorelab.inverse.mcgdiff import mcgdiff
from scorelab.inverse.decoupled import pnp_dm
from scorelab.inverse.loops import repaint
from scorelab.inverse.twisted import tds
