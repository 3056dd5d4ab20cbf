"""Operators `(event_shape, **options) -> Operator` that a config can name, one import each."""

from scorelab.inverse.operators import Blur
from scorelab.inverse.operators import Downsample
from scorelab.inverse.operators import inpainting
from scorelab.inverse.operators import random_matrix
