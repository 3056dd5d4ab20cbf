"""Targets that a config can name, one import each."""

from scorelab.targets.mixtures import nine_modes
from scorelab.targets.mixtures import ring
from scorelab.targets.mixtures import grid25
from scorelab.targets.mixtures import two_modes_1d
from scorelab.targets.circles import two_circles
from scorelab.targets.circles import two_circles_points
from scorelab.targets.points import swiss_roll
from scorelab.targets.points import moons
from scorelab.targets.points import spirals
from scorelab.targets.points import checkerboard
from scorelab.targets.digits import digits
from scorelab.targets.patches import patches
from scorelab.targets.points import pinwheel
