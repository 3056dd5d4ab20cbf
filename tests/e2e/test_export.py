"""A run's network, written for others."""

import jax
import numpy as np
import pytest

from configs.presets.digits import digits
from scorelab.cli.export import export, main
from scorelab.experiment.build import build
from scorelab.pretrained import PretrainedError, load_model, load_pipeline


@pytest.fixture(scope="module")
def experiment():
  """A `unet2d` on digits, on a table of betas: reachable from a config by its options' names."""
  config = digits()
  config.schedule.update(name="linear_betas", num_levels=1000)
  config.parameterization.update(name="noise", conditioning="time_index")
  config.network.update(name="unet2d", widths=None, norms=None, activation=None)
  config.network.update(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
  config.network.down_block_types = ("DownBlock2D", "AttnDownBlock2D")
  config.network.up_block_types = ("AttnUpBlock2D", "UpBlock2D")
  config.loss.name = "ddpm"
  config.sampler.update(name="ddim", grid="timesteps", sigma_min=None)
  config.evaluation.rows = ()
  return build(config)


def drawn(experiment):
  template = jax.eval_shape(experiment.init_params, jax.random.key(0))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), template)


def test_a_pipeline_is_written(experiment, tmp_path):
  params = drawn(experiment)
  export(experiment, params, tmp_path, "diffusers")
  pipeline = load_pipeline(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, pipeline.params, params)
  assert pipeline.event_shape == (8, 8, 1)
  assert pipeline.parameterization.kind == "noise"
  level = experiment.schedule.at(0.25)
  np.testing.assert_allclose(pipeline.schedule.at(0.25).alpha, level.alpha, rtol=1e-5)


def test_a_plain_model_is_written(experiment, tmp_path):
  params = drawn(experiment)
  export(experiment, params, tmp_path, "plain")
  network, read, shape, about = load_model(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert network == experiment.parameterization.apply.__self__
  assert (shape, about["schedule"]["name"]) == ((8, 8, 1), "linear_betas")


def test_mistakes_are_one_line(experiment, tmp_path, capsys):
  for arguments in (["--workdir", str(tmp_path), "--to", str(tmp_path / "out")],):
    assert main(arguments) == 2
    assert "there is no run here" in capsys.readouterr().err
  experiment.config["parameterization"]["num_train_steps"] = 500
  with pytest.raises(PretrainedError, match=r"of 500 steps.*use --format=plain"):
    export(experiment, {}, tmp_path, "diffusers")
