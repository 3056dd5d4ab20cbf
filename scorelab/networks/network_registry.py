"""Networks that a config can name, one import each: ResidualMLP is residual_mlp."""

from scorelab.networks.additive import AdditiveMLP
from scorelab.networks.dit import DiT
from scorelab.networks.heads import HeadsMLP
from scorelab.networks.mlp import MLP
from scorelab.networks.unet import modern_unet
from scorelab.networks.mlp import ResidualMLP
from scorelab.networks.unet import UNet
from scorelab.networks.unet2d import UNet2D
