"""scorelab: the lab for score-based generative models in which the truth is known."""

__version__ = "0.1.0"
