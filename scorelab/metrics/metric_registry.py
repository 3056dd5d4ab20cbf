"""Metrics that a config can name, one import each."""

from scorelab.metrics.wasserstein import sliced_wasserstein
from scorelab.metrics.wasserstein import max_sliced_wasserstein
from scorelab.metrics.wasserstein import wasserstein
from scorelab.metrics.kernels import energy_distance
from scorelab.metrics.frechet import frechet
from scorelab.metrics.kernels import kernel_distance
from scorelab.metrics.manifolds import precision
from scorelab.metrics.manifolds import recall
from scorelab.metrics.support import memorised_share
from scorelab.metrics.support import nearest_point_distance
from scorelab.metrics.modes import mode_weight_tv
from scorelab.metrics.modes import off_mode_share
from scorelab.metrics.modes import within_mode_std
from scorelab.metrics.classes import class_count
from scorelab.metrics.classes import class_imbalance
from scorelab.metrics.classes import confident_share
from scorelab.metrics.classes import class_accuracy
from scorelab.metrics.support import component_tv
from scorelab.metrics.support import support_distance
from scorelab.metrics.moments import mean_shift
from scorelab.metrics.moments import covariance_error
from scorelab.metrics.moments import interval_error
from scorelab.metrics.consistency import measurement_misfit
