"""A pretrained image model of diffusers, sampled by DDIM with eta 0 and 1, or by any sampler here.

  python main.py --config=configs/pretrained.py --mode=eval \
      --config.pretrained.path=google/ddpm-ema-celebahq-256
  python main.py --config=configs/pretrained.py --mode=eval --config.pretrained.path=DIRECTORY \
      --config.sampler.name=dpmpp_2m --config.sampler.grid=uniform_log_snr

The path is a directory with the model's JSON and weights, or a hub id if `huggingface_hub` is
installed and there is a network. google/ddpm-ema-celebahq-256 is the averaged model that the
notebook samples, google/ddpm-celebahq-256 the one without averaging. Weights are safetensors; a
repository that has only diffusion_pytorch_model.bin needs torch (`pip install -e '.[hub,torch]'`),
which reads it without running code. The run writes a sheet of images for each sampler, samples.npz
in the model's own range, and the calls of the network and seconds per image; there is no truth to
compare with. A variance-exploding model (google/ncsnpp-...) needs --config.sampler.grid=geometric.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
  """The experiment; arg 'fast' takes two steps."""
  config = base.get_config()
  config.pretrained.path = "google/ddpm-ema-celebahq-256"
  config.training.num_steps = 0
  config.sampler.update(name="ddim", num_steps=10, grid="timesteps", eta=0.0)
  config.evaluation.update(num_keys=1, num_samples=4, rows=("ddim:10:eta=1.0",), metrics=())
  if arg == "fast":
    config.sampler.num_steps = 2
    config.evaluation.rows = ("ddim:2:eta=1.0",)
  elif arg:
    raise ValueError(f"config argument {arg!r} is not known (known: fast)")
  return config
