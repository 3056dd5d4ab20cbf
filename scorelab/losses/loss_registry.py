"""Losses that a config can name, one import each."""

from scorelab.losses.consistency import consistency
from scorelab.losses.variational import continuous_bound
from scorelab.losses.denoising import ddpm
from scorelab.losses.denoising import denoising
from scorelab.losses.denoising import edm
from scorelab.losses.flow_matching import flow_matching
from scorelab.losses.implicit import hutchinson
from scorelab.losses.variational import hybrid
from scorelab.losses.implicit import hyvarinen
from scorelab.losses.denoising import ncsn
from scorelab.losses.implicit import sliced
from scorelab.losses.implicit import sliced_fd
from scorelab.losses.implicit import hutchinson as sliced_vr
from scorelab.losses.variational import stepwise_kl
from scorelab.losses.variational import variational_bound
