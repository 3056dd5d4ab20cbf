"""Schedules that a config can name, one import each: VariancePreserving is variance_preserving."""

from scorelab.schedules.exploding import VarianceExploding
from scorelab.schedules.exploding import GeometricVarianceExploding
from scorelab.schedules.exploding import SigmaPower
from scorelab.schedules.continuous import VariancePreserving
from scorelab.schedules.continuous import SubVP
from scorelab.schedules.continuous import Cosine
from scorelab.schedules.continuous import Sigmoid
from scorelab.schedules.continuous import Laplace
from scorelab.schedules.continuous import LinearFlow
from scorelab.schedules.continuous import CosineFlow
from scorelab.schedules.continuous import GaussianChannel
