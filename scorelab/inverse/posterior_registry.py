"""Posterior methods, predict -> predict, that a config can name, one import each."""

from scorelab.inverse.projection import ddnm
from scorelab.inverse.fixed_covariance import dps
from scorelab.inverse.moment_matching import mmps
from scorelab.inverse.fixed_covariance import pigdm
from scorelab.inverse.projection import proximal
from scorelab.inverse.moment_matching import tmpd
