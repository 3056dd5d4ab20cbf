"""Every field of an experiment, with its type and its default.

A sub-config holds the union of its parts' options. None means the named part's own default; a value
set that the named part lacks is an error.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
  """The fields; an experiment sets what it needs."""
  config = ConfigDict()
  config.seed = 0
  # 'float32' keeps TF32 and bfloat16 out of matrix products; 'default' lets the device choose.
  config.matmul_precision = "float32"

  # Several trainings in one program: see scorelab/training/ensembles.py.
  config.ensemble = ConfigDict(
    dict(
      seeds=placeholder(int),  # so many: seed, seed + 1, ...
      over=placeholder(str),  # "optimizer.learning_rate=1e-3,3e-3 sampler.eta=0,1", with each seed
    )
  )
  # A model of another library in the place of training: see scorelab/evaluation/pretrained.py.
  config.pretrained = ConfigDict(
    dict(
      path=placeholder(str),  # a directory, or a hub id
      revision=placeholder(str),  # of a hub id
      variant=placeholder(str),  # of the weights: 'fp16', 'non_ema', 'ema'
      image_size=placeholder(int),  # None is the model's own
      label=placeholder(int),  # the class; None takes all in turn
      clip=placeholder(bool),  # False leaves x0 unclipped where the model's scheduler clips it
    )
  )
  config.target = ConfigDict(
    dict(
      name="nine_modes",
      num_train=0,  # points of a fixed training set; 0 draws afresh, or uses the target's own
      num_modes=placeholder(int),
      radius=placeholder(float),
      std=placeholder(float),
      dim=placeholder(int),
      weights=placeholder(tuple),
      separation=placeholder(float),
      weight=placeholder(float),
      num_points=placeholder(int),
      offset=placeholder(float),
      noise=placeholder(float),
      turns=placeholder(float),
      width=placeholder(float),
      num_arms=placeholder(int),
      radial_std=placeholder(float),
      tangential_std=placeholder(float),
      rate=placeholder(float),
      validation_share=placeholder(float),
      scaling=placeholder(str),
      dequantise=placeholder(bool),
      stride=placeholder(int),
      # Of points in a file: see scorelab/data/points.py.
      path=placeholder(str),
      columns=placeholder(tuple),
      header=placeholder(bool),  # None decides by the first line's cells
      array=placeholder(str),
      validation_fraction=placeholder(float),
      test_fraction=placeholder(float),
      split_seed=placeholder(int),
      standardise=placeholder(bool),
      # Of images in files: see scorelab/data/images.py.
      side=placeholder(int),
      channels=placeholder(int),
      column=placeholder(str),
      part=placeholder(str),
      labelled=placeholder(bool),
      label_column=placeholder(str),
      held_out=placeholder(int),
      cache_gib=placeholder(float),
      num_workers=placeholder(int),
      flip=placeholder(bool),
    )
  )
  config.schedule = ConfigDict(
    dict(
      name="variance_exploding",
      sigma_min=placeholder(float),
      sigma_max=placeholder(float),
      rho=placeholder(float),
      beta_min=placeholder(float),
      beta_max=placeholder(float),
      alpha_min=placeholder(float),
      alpha_max=placeholder(float),
      base=placeholder(float),
      offset=placeholder(float),
      start=placeholder(float),
      end=placeholder(float),
      tau=placeholder(float),
      mu=placeholder(float),
      b=placeholder(float),
      num_levels=placeholder(int),
      clip=placeholder(float),
      zero_terminal_snr=placeholder(bool),
      shift=placeholder(float),  # of any schedule's log(alpha / sigma); log(64 / d) for side d
    )
  )
  config.network = ConfigDict(
    dict(
      name="residual_mlp",
      widths=placeholder(tuple),
      head_widths=placeholder(tuple),
      num_heads=placeholder(int),
      norms=placeholder(tuple),
      activation=placeholder(str),
      output_activation=placeholder(str),
      level_features=placeholder(str),
      width=placeholder(int),
      depth=placeholder(int),
      num_features=placeholder(int),
      point_scale=placeholder(float),
      level_scale=placeholder(float),
      output_limit=placeholder(float),
      dim=placeholder(int),
      dim_mults=placeholder(tuple),
      block=placeholder(str),
      attention=placeholder(tuple),
      key_softmax=placeholder(str),
      first_skip=placeholder(bool),
      head_dim=placeholder(int),
      patch_size=placeholder(int),
      mlp_ratio=placeholder(float),
      scale_shift=placeholder(bool),
      zero_init=placeholder(bool),
      dropout=placeholder(float),
      num_classes=placeholder(int),
      label_dropout=placeholder(float),
      dtype=placeholder(str),  # 'bfloat16' computes in it; parameters stay float32
      remat=placeholder(bool),  # less memory for about a third more computing
      flash=placeholder(bool),  # cuDNN's attention: on a GPU, in bfloat16
      # Of unet2d, as diffusers' config.json names them: see scorelab/networks/unet2d.py.
      block_out_channels=placeholder(tuple),
      down_block_types=placeholder(tuple),
      up_block_types=placeholder(tuple),
      layers_per_block=placeholder(int),
      mid_block_type=placeholder(str),
      mid_block_scale_factor=placeholder(float),
      add_attention=placeholder(bool),
      attention_head_dim=placeholder(int),
      norm_num_groups=placeholder(int),
      attn_norm_num_groups=placeholder(int),
      norm_eps=placeholder(float),
      act_fn=placeholder(str),
      resnet_time_scale_shift=placeholder(str),
      downsample_padding=placeholder(int),
      downsample_type=placeholder(str),
      upsample_type=placeholder(str),
      time_embedding_type=placeholder(str),
      time_embedding_dim=placeholder(int),
      freq_shift=placeholder(float),
      flip_sin_to_cos=placeholder(bool),
      num_train_timesteps=placeholder(int),
      class_embed_type=placeholder(str),
      num_class_embeds=placeholder(int),
      center_input_sample=placeholder(bool),
      out_channels=placeholder(int),
    )
  )
  config.parameterization = ConfigDict(
    dict(
      name="edm",
      conditioning="log_sigma",
      num_train_steps=placeholder(int),
      data_std=placeholder(float),  # of edm; None is the target's own std
      learned_variance=placeholder(bool),  # the network gives a variance_fraction too
      relative=placeholder(bool),  # of reverse_step: to the posterior's own mean and variance
      energy=placeholder(bool),  # the output is the gradient of a scalar: a log-density exists
    )
  )
  config.loss = ConfigDict(
    dict(
      name="ncsn",
      levels=placeholder(str),
      sigma_min=placeholder(float),
      sigma_max=placeholder(float),
      t_min=placeholder(float),
      t_max=placeholder(float),
      level_mean=placeholder(float),
      level_std=placeholder(float),
      sigma=placeholder(float),
      num_levels=placeholder(int),
      spacing=placeholder(str),
      uniforms=placeholder(str),
      levels_per_point=placeholder(int),
      weighting=placeholder(str),
      score_weighting=placeholder(str),
      gamma=placeholder(float),
      snr_offset=placeholder(float),
      norm=placeholder(str),
      huber_delta=placeholder(float),
      min_intervals=placeholder(int),
      max_intervals=placeholder(int),
      double_every=placeholder(int),
      rho=placeholder(float),
      coupling=placeholder(str),
      variance=placeholder(str),
      bound_weight=placeholder(float),
      data_std=placeholder(float),  # of the edm weighting; None is the target's own std
      num_bands=placeholder(int),
      divergence=placeholder(str),
      max_unrolled=placeholder(int),
      probes=placeholder(str),
      num_probes=placeholder(int),
      eps=placeholder(float),
    )
  )
  config.optimizer = ConfigDict(
    dict(
      name="adam",
      learning_rate=1e-3,
      decay="cosine",  # of the learning rate after the warm-up, to 0: 'cosine' or 'constant'
      warmup_steps=200,
      clip_norm=1.0,  # of the whole gradient; 0 does not clip
      b1=placeholder(float),
      b2=placeholder(float),
      eps=placeholder(float),
      weight_decay=placeholder(float),
      ema_decays=(0.999,),  # the slowest one is evaluated; () evaluates the parameters themselves
    )
  )
  config.training = ConfigDict(
    dict(
      num_steps=6000,
      batch_size=1024,  # 0 is the whole training set
      # Parts of a batch that are worked on one after the other, which takes less memory; None is 1.
      accumulate=placeholder(int),
      # Of parameters over several devices: 'replicated' (None) or 'fsdp', split over them.
      sharding=placeholder(str),
      log_every=100,
      checkpoint_every=1000,
      keep_every=0,  # keeps every checkpoint of a multiple of so many steps; 0 the latest and best
      num_validation=10_000,  # points drawn, where the target brings none of its own
      validation_repeats=placeholder(int),  # times that each is shown, each at its own level
      # Of a validation, made at every checkpoint: what tells the best one, 'val_loss' or
      # 'score_error', and after how many without a better one training stops, 0 for never.
      monitor="val_loss",
      patience=0,
    )
  )
  config.sampler = ConfigDict(
    dict(
      name="dpmpp_2m",
      num_steps=16,
      grid="karras",
      sigma_min=placeholder(float),
      sigma_max=placeholder(float),
      rho=placeholder(float),
      t_min=placeholder(float),
      t_max=placeholder(float),
      to_data=placeholder(bool),
      log_snrs=placeholder(tuple),  # of the grid 'given': one for each noisy level, increasing
      spacing=placeholder(str),  # of the grid 'timesteps': 'leading', 'trailing' or 'linspace'
      steps_offset=placeholder(int),
      num_levels=placeholder(int),
      eta=placeholder(float),
      churn=placeholder(float),
      s_tmin=placeholder(float),
      s_tmax=placeholder(float),
      s_noise=placeholder(float),
      order=placeholder(int),
      solver_type=placeholder(str),
      view=placeholder(str),
      curvature=placeholder(float),
      lower_order_final=placeholder(bool),
      uncorrected=placeholder(int),
      warm_up=placeholder(str),
      snr=placeholder(float),
      corrector_steps=placeholder(int),
      steps_per_level=placeholder(int),
      step_size=placeholder(float),
      rule=placeholder(str),
      denoise=placeholder(bool),
      unsquared=placeholder(bool),
      at_arrival=placeholder(bool),
      squash=placeholder(bool),
      variance=placeholder(str),
      slips=placeholder(bool),
      # Of Langevin kernels, whose num_steps are a chain's: where they start, N(0, start_std^2 I),
      # and the noise std of the law that they sample, 0 for the data's.
      start_std=placeholder(float),
      sigma=placeholder(float),
      friction=placeholder(float),
      # Guidance, the same for all rows but where they say otherwise: 'classifier_free',
      # 'classifier' or 'autoguidance'. A scale of 0 is the weak model, 1 the strong one.
      guidance=placeholder(str),
      guidance_scale=placeholder(float),
      guidance_low=placeholder(float),  # sigma / alpha above which it guides
      guidance_high=placeholder(float),  # and up to which
      guidance_rescale=placeholder(float),
      # The weaker model of autoguidance: 0 for the parameters themselves, an average's decay, or
      # the step of a checkpoint that training.keep_every kept.
      guidance_weak=placeholder(float),
      # Of x0, after guidance and for all rows too: 'static' to +-clip_limit, or 'dynamic'.
      clipping=placeholder(str),
      clip_limit=placeholder(float),
      clip_quantile=placeholder(float),
      clip_keep_noise=placeholder(bool),
      burn_in=placeholder(int),
      thin=placeholder(int),
    )
  )
  config.evaluation = ConfigDict(
    dict(
      # Further rows, each the main sampler's settings with changes: "name:num_steps:field=value".
      checkpoint="last",  # or 'best'
      # Decay of the average that is measured, one of optimizer.ema_decays; None is the slowest, 0
      # the parameters themselves.
      ema=placeholder(float),
      rows=("dpmpp_2m:32", "heun:16", "ddim:32:eta=1.0"),
      num_keys=10,
      num_samples=2000,
      batch_size=placeholder(int),  # of samples drawn at a time; None draws a key's all at once
      num_reference=10_000,
      reference="fresh",  # 'fresh' draws for every key, the 'train' set, or the target's 'test' set
      labels=placeholder(str),  # asked of a conditional network: 'data' (default), 'uniform', '3'
      num_projections=1000,
      metrics=(  # each "name" or "name:field=value", as in "sliced_wasserstein:p=1"
        "max_sliced_wasserstein",
        "sliced_wasserstein",
        "energy_distance",
        "mode_weight_tv",
        "off_mode_share",
        "within_mode_std",
      ),
      # Of all metrics in features, instead of the network that each names: 'classifier',
      # 'rotations', 'inception' with the file of its weights, or 'module.function' of yours.
      features=placeholder(str),
      inception_path=placeholder(str),
      score_levels=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0),  # sigma / alpha
      score_samples=4096,
      # Log-likelihood of so many held-out points; None or 0 for none. See LikelihoodProtocol.
      likelihood_points=placeholder(int),
      likelihood_method=placeholder(str),  # 'heun', 'rk4' or 'adaptive'
      likelihood_num_steps=placeholder(int),
      likelihood_divergence=placeholder(str),  # 'exact' or 'hutchinson'
      likelihood_num_probes=placeholder(int),
      likelihood_tolerance=placeholder(float),
      likelihood_bound_steps=placeholder(int),
    )
  )
  return config


def variant(config: ConfigDict, arg: str) -> ConfigDict:
  """The config as it is for '', and the same experiment in seconds for 'fast'.

  Raises:
    ValueError: arg is neither.
  """
  if arg == "fast":
    if config.training.num_steps:
      config.training.num_steps = 60
    config.training.update(log_every=10, checkpoint_every=20, num_validation=512)
    config.training.keep_every = 20 if config.training.keep_every else 0
    config.training.batch_size = min(config.training.batch_size, 128)
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, 10)
    config.evaluation.update(num_keys=2, num_samples=200, num_reference=400, num_projections=50)
    config.evaluation.update(score_samples=256, rows=config.evaluation.rows[-1:])
    config.evaluation.likelihood_points = None
  elif arg:
    raise ValueError(f"config argument {arg!r} is not known (known: fast)")
  return config


def exact(config: ConfigDict) -> ConfigDict:
  """The config with the truth in the network's place, and nothing to train."""
  config.parameterization.name = "exact"
  config.training.num_steps = 0
  return config


def score_matching(config: ConfigDict, loss: str) -> ConfigDict:
  """The config with a score learned at the data by an implicit loss, and what that took.

  The modes are 10 apart and 0.3 wide: the network sees data scaled to unit std through Fourier
  features that resolve a mode; the learning rate warms up and decays, gradients are clipped, and an
  average is evaluated. Points are drawn afresh: on a fixed set these losses have no lower bound.
  Chains start from N(0, 100 I) and mix within modes only; a quarter of them ends off every mode, in
  wells outside the data, where an implicit loss sees no point and so says nothing of the score.
  """
  config.parameterization.update(name="scaled_score", conditioning="none")
  config.network.update(name="residual_mlp", width=128, depth=2, point_scale=4.0)
  config.loss.name = loss
  config.optimizer.learning_rate = 3e-3
  config.training.update(num_steps=4000, batch_size=1024)
  config.sampler.update(name="ula", num_steps=1000, step_size=1e-2, start_std=10.0)
  config.evaluation.update(rows=(), score_levels=(0.0,))
  return config


def digits(config: ConfigDict) -> ConfigDict:
  """The config on 8 by 8 digits, dequantised, with all that is not the process's own.

  The loss of held-out digits, each seen at 20 levels, is least after about 2200 steps; from there
  the samples' classes get surer, at some more memory of the 1212 training digits. Weight decay puts
  that off and lowers both. What is measured, against the 450 test digits, is the last step.
  """
  config.target.update(name="digits", dequantise=True)
  config.parameterization.update(name="edm", conditioning="log_sigma")
  config.network.update(name="mlp", widths=(1024,) * 3, norms=(False,) * 3, activation="silu")
  config.loss.name = "edm"
  config.optimizer.update(ema_decays=(0.998,), weight_decay=0.3)
  config.training.update(num_steps=4000, batch_size=128, checkpoint_every=200)
  config.training.validation_repeats = 20
  config.sampler.update(name="heun", num_steps=16, grid="karras", sigma_min=0.02)
  config.evaluation.update(reference="test", num_keys=5)
  config.evaluation.update(rows=("dpmpp_2m:32", "heun:32:churn=20.0"))
  config.evaluation.metrics = ("frechet", "confident_share", "class_count", "energy_distance")
  return config


def images(config: ConfigDict, features: str) -> ConfigDict:
  """The config on images, with what denoising diffusion of them shares.

  T = 1000 linear betas; a network that is told the step's index and read through EDM's scaling; an
  average over the last five hundred steps. Samples are drawn in batches, over one key, and
  measured in pixels and in the features of this name.
  """
  config.schedule.update(name="linear_betas", num_levels=1000, beta_min=1e-4, beta_max=0.02)
  config.network = get_config().network
  config.parameterization.update(name="edm", conditioning="time_index")
  config.loss.update(name="ddpm", levels="grid", num_levels=1000, spacing="uniform")
  config.optimizer.update(learning_rate=1e-3, ema_decays=(0.998,))
  config.training.update(log_every=50, checkpoint_every=500, keep_every=500, num_validation=256)
  config.sampler.update(name="dpmpp_2m", num_steps=32, grid="karras")
  config.evaluation.update(reference="test", num_keys=1, num_samples=1000, batch_size=100)
  config.evaluation.rows = ("heun:16", "ddim:50")
  measured = ("frechet", "kernel_distance", "precision", "recall", "sliced_wasserstein")
  config.evaluation.metrics = (
    *("frechet", "sliced_wasserstein"),
    *(f"{name}:features={features}" for name in measured),
  )
  return config


def small_images(config: ConfigDict, arg: str) -> ConfigDict:
  """`variant` of a config on images: for 'fast' the network is small and samples are few."""
  if arg == "fast":
    config.network.update(dim=8, dim_mults=(1, 2), num_heads=2, head_dim=4)
    if config.network.attention is not None and len(config.network.attention) > 1:
      config.network.attention = ("none", "full")
    config.evaluation.rows = ("ddim:4",)
    config.sampler.num_steps = 4
  config = variant(config, arg)
  if arg == "fast":
    config.training.batch_size = 8
    config.evaluation.update(num_samples=20, batch_size=10, num_keys=1)
  return config
