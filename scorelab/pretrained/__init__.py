"""Reads weights trained by other libraries, and writes ours for them."""

from scorelab.pretrained.annotated import unet_params
from scorelab.pretrained.diffusers import Pipeline, load_pipeline, save_pipeline
from scorelab.pretrained.files import PretrainedError
from scorelab.pretrained.native import load_model, save_model
from scorelab.pretrained.score_sde import load_score_sde, score_sde_unet

__all__ = [
  "Pipeline",
  "PretrainedError",
  "load_model",
  "load_pipeline",
  "load_score_sde",
  "save_model",
  "save_pipeline",
  "score_sde_unet",
  "unet_params",
]
