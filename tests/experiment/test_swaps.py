"""Parts that are swapped by name, and options that are unset, on the command line."""

import importlib
import json
import pathlib

import jax.numpy as jnp
import pytest
from ml_collections import config_flags  # noqa: F401  (registers the flag types)

from configs import base
from scorelab.config import command_line, options
from scorelab.config.command_line import read_config
from scorelab.config.swaps import PARTS, drop_old_options, has_data_score
from scorelab.errors import ConfigError
from scorelab.experiment import components as parts
from scorelab.experiment import sampler_spec as rows
from scorelab.experiment.build import build
from scorelab.inverse import POSTERIOR_SAMPLERS, Observation
from scorelab.networks import ACTIVATIONS, LEVEL_FEATURES
from scorelab.networks.unet import ATTENTIONS
from scorelab.predictions import CONDITIONINGS
from scorelab.schedules import SCHEDULES
from scorelab.sweep import plan
from scorelab.targets import TARGETS
from scorelab.targets.digits import SCALINGS
from scorelab.training import ensembles

NAMES = sorted(f.stem for f in pathlib.Path("configs").glob("*.py") if f.stem != "base")
OBSERVATION = Observation(jnp.ones((1, 2)), jnp.ones(1), 0.1)
NCSN, CIRCLES = "configs/ncsn_gmm.py:fast", "configs/ddpm_circles_published.py:fast"


class Accepted(Exception):  # noqa: N818 (raised where a part's options have passed)
  pass


@pytest.fixture
def checks(monkeypatch):
  """What makes each part, by section, ended by Accepted as soon as it has checked its options."""

  def check_only(*arguments, check=options.refuse_unused):
    check(*arguments)
    raise Accepted

  for module in (options, parts, rows):
    monkeypatch.setattr(module, "refuse_unused", check_only)

  def named(path, also=()):
    return lambda config: options.make(PARTS[path]["name"], config[path], path, "part", also)

  def row(config):
    settings = {k: v for k, v in config.sampler.items() if v is not None}
    conditional = "posterior" in settings or settings["name"] in POSTERIOR_SAMPLERS
    rows.plan_row(settings, "sampler", True, OBSERVATION if conditional else None)

  return {
    "target": named("target", ("num_train",)),
    "schedule": named("schedule", ("shift",)),
    "network": named("network"),
    "parameterization": lambda c: parts.plan_parameterization(c.parameterization, None),
    "loss": lambda c: parts.plan_loss(c, None),
    "optimizer": parts.plan_optimizer,
    "sampler": row,
    "observation": named("observation", ("path", "noise_std", "seed")),
  }


@pytest.mark.e2e
def test_every_part_takes_the_place_of_every_config_s_own(checks):
  """The checks of the parts themselves find no option of an old part."""
  pairs, tried, refused = 0, set(), {}
  for name in NAMES:
    config = importlib.import_module(f"configs.{name}").get_config()
    for path, selectors in PARTS.items():
      section = config[path].to_json()
      for field, known in selectors.items():
        pairs += len(known)
        if (field, section) in tried:  # a section that several configs share
          continue
        tried.add((field, section))
        changed, own = config.copy_and_resolve_references(), dict(config[path])
        for part in known:
          changed[path].update(own)
          old, changed[path][field] = changed[path][field], part
          drop_old_options(changed, {f"{path}.{field}": old})
          try:
            if changed[path].name != "exact":  # takes anything
              checks[path](changed)
          except Accepted:
            continue
          except ConfigError as error:
            refused.setdefault((f"{path}.{field}", part), set()).add(str(error))
  assert pairs > 5000
  assert {key: lines for key, said in refused.items() if (lines := of_old_parts(*key, said))} == {}


def of_old_parts(field, part, said):
  """The lines that do not say that the typed part lacks a value, or has no place in the main one.

  Autoguidance has to be told its weaker model; a nested part needs a main one that takes its field;
  an observation cannot be guided.
  """
  nested = f"{field} = {part!r} is not an option of "
  return [
    line
    for line in said
    if not (field != field.partition(".")[0] + ".name" and line.startswith(nested))
    and not (part == "autoguidance" and "guidance_weak = None" in line)
    and not (field == "sampler.guidance" and line.endswith("does not go with an observation"))
  ]


SWAPS = {
  "schedule": (
    "configs/ddpm_digits.py",
    ["schedule.name=cosine_betas"],
    {"schedule.beta_min": 1e-4, "schedule.beta_max": 0.02},
    {"schedule.num_levels": 1000},
  ),
  "rates": (
    CIRCLES,
    ["schedule.name=linear_betas"],
    {"schedule.beta_min": 0.1, "schedule.beta_max": 20.0},
    {"schedule.num_levels": 100},
  ),
  "loss": (NCSN, ["loss.name=flow_matching"], {"loss.weighting": "edm"}, {}),
  "nested": (
    "configs/ncsn_gmm_published.py",
    ["loss.levels=log_uniform"],
    {"loss.level_mean": -0.5, "loss.level_std": 1.2},
    {"loss.weighting": "sigma_squared"},
  ),
  "sampler": (CIRCLES, ["sampler.name=ddim"], {"sampler.variance": "large"}, {}),
  "grid": (NCSN, ["sampler.grid=uniform"], {"sampler.sigma_min": 0.05}, {}),
  "network": (
    NCSN,
    ["network.name=mlp"],
    {"network.width": 192, "network.depth": 2},
    {},
  ),
  "optimizer": (
    CIRCLES,
    ["optimizer.name=sgd"],
    {"optimizer.eps": 2e-8},
    {"optimizer.learning_rate": 1e-3, "optimizer.decay": "constant"},
  ),
  "target": (
    CIRCLES,
    ["target.name=moons"],
    {"target.num_points": 10},
    {"target.num_train": 0},
  ),
  "unset part": (
    "configs/ncsn_gmm_published.py",
    ["loss.levels=None"],
    {"loss.level_mean": -0.5, "loss.level_std": 1.2},
    {},
  ),
}


def get(config, field):
  section, name = field.split(".")
  return config[section][name]


@pytest.mark.e2e
@pytest.mark.parametrize(("file", "typed", "dropped", "kept"), SWAPS.values(), ids=SWAPS)
def test_a_swap_drops_what_the_new_part_lacks_in_one_line(file, typed, dropped, kept):
  said = []
  before = read_config(file)
  after = read_config(file, [f"--config.{change}" for change in typed], said.append)
  assert {field: get(before, field) for field in dropped} == dropped
  assert all(get(after, field) is None for field in dropped)
  assert {field: get(after, field) for field in kept} == kept
  (line,) = said
  assert line.startswith(f"{file}: dropped ") and "\n" not in line
  assert all(f"{field} = {value!r}" in line for field, value in dropped.items())
  changed = {f for f in flat(after) if flat(after)[f] != flat(before)[f]}
  assert changed == {*dropped, *(change.partition("=")[0] for change in typed)}


def flat(config):
  """All fields of a config, by dotted name."""
  sections = json.loads(config.to_json()).items()
  return {f"{p}.{k}": v for p, s in sections if isinstance(s, dict) for k, v in s.items()}


def test_what_was_typed_is_not_dropped_but_refused():
  typed = ["--config.schedule.name=variance_preserving", "--config.schedule.rho=5.0"]
  config = read_config(NCSN, typed)
  assert config.schedule.sigma_max is None and config.schedule.rho == 5.0
  with pytest.raises(ConfigError, match=r"schedule\.rho = 5\.0 is not an option of variance_"):
    parts.plan_components(config, None)


def test_the_same_name_or_an_unknown_one_drops_nothing():
  for change in ("schedule.name=variance_exploding", "schedule.name=nosuch", "seed=3"):
    said = []
    config = read_config(NCSN, [f"--config.{change}"], said.append)
    assert config.schedule.sigma_max == 80.0
    assert not said


IMPLICIT = ("hyvarinen", "hutchinson", "sliced", "sliced_fd", "sliced_vr")


@pytest.mark.parametrize("loss", IMPLICIT)
def test_an_implicit_loss_keeps_the_levels_where_the_data_have_no_score(loss):
  """EDM's score is infinite at sigma = 0: there the first loss would be nan."""
  said = []
  config = read_config(NCSN, [f"--config.loss.name={loss}"], said.append)
  assert config.loss.levels == "log_uniform"
  assert said[0].endswith("; kept loss.levels = 'log_uniform' of 'ncsn'")
  score = ["--config.parameterization.name=score", "--config.parameterization.conditioning=sigma"]
  assert read_config(NCSN, [f"--config.loss.name={loss}", *score]).loss.levels is None
  with pytest.raises(ConfigError, match="learns at the data, sigma = 0, where parameterization"):
    build(read_config(NCSN, [f"--config.loss.name={loss}", "--config.loss.levels=data"]))


@pytest.mark.parametrize("conditioning", sorted(CONDITIONINGS))
@pytest.mark.parametrize("name", ["edm", "flow", "noise", "score", "scaled_score", "v", "x0"])
def test_a_score_at_the_data_is_finite_where_it_is_said_to_be(name, conditioning):
  config = base.variant(base.get_config(), "fast")
  config.parameterization.update(name=name, conditioning=conditioning)
  if conditioning == "time_index":
    config.parameterization.num_train_steps = 100
  target, schedule = TARGETS["nine_modes"](), SCHEDULES["variance_exploding"]()

  def apply(variables, x, c, rngs):
    return variables["params"] + x + c[:, None]

  read = parts.plan_parameterization(config.parameterization, target)(apply, schedule, {})
  score = read.bind(jnp.ones(2))(jnp.ones((1, 2)), schedule.at_ratio(jnp.zeros(1))).score
  assert has_data_score(config) == bool(jnp.isfinite(score).all())


def test_the_weaker_model_goes_with_its_guidance():
  config = read_config(NCSN, ["--config.sampler.guidance=autoguidance"])
  config.sampler.update(guidance_weak=0.0, guidance_rescale=0.5, guidance_scale=2.0)
  config.sampler.guidance = "classifier"
  assert drop_old_options(config, {"sampler.guidance": "autoguidance"})
  assert config.sampler.guidance_weak is config.sampler.guidance_rescale is None
  assert config.sampler.guidance_scale == 2.0


@pytest.mark.parametrize("word", ["None", "none", ""])
def test_every_field_that_may_be_none_is_unset(word):
  """All in one command line, after values that would not do."""
  fields = sorted(command_line.nullable_fields())
  assert len(fields) > 150 and "schedule.beta_max" in fields
  own_word = command_line.NONE_IS_A_NAME if word == "none" else ()
  unset = [field for field in fields if field not in own_word]
  config = read_config(
    "configs/ddpm_digits.py",
    [f"--config.{f}=7" for f in unset] + [f"--config.{f}={word}" for f in unset],
  )
  assert all(get(config, field) is None for field in unset)
  defaults = base.get_config()
  assert all(get(defaults, field) is None for field in fields)


def test_the_last_of_several_values_holds():
  field = "--config.schedule.beta_max"
  for typed, value in (
    ([f"{field}=None", f"{field}=0.3"], 0.3),
    ([f"{field}=0.3", f"{field}=None"], None),
    ([field, "None"], None),
    ([field, "0.3"], 0.3),
    (["--config.sampler.denoise=None", "--noconfig.sampler.denoise", field, "none"], None),
  ):
    config = read_config("configs/ddpm_digits.py", typed)
    assert config.schedule.beta_max == value
  assert config.sampler.denoise is False


def test_what_may_not_be_none_is_refused():
  for field in ("training.num_steps", "seed", "optimizer.learning_rate"):
    with pytest.raises(ConfigError, match=f"{field}=None"):
      read_config(NCSN, [f"--config.{field}=None"])


def test_none_is_a_name_where_a_registry_has_it():
  """The three fields whose 'none' keeps its meaning, against the names of every field."""
  known = {f"{path}.{field}": names for path, s in PARTS.items() for field, names in s.items()}
  known |= {
    "target.scaling": SCALINGS,
    "network.level_features": LEVEL_FEATURES,
    "network.attention": ATTENTIONS,
    "network.activation": ACTIVATIONS,
    "network.output_activation": ACTIVATIONS,
  }
  with_none = {field for field, names in known.items() if "none" in names}
  assert with_none & command_line.nullable_fields() == command_line.NONE_IS_A_NAME
  for field, value in (("target.scaling", "none"), ("network.attention", ("none",))):
    assert get(read_config("configs/ddpm_digits.py", [f"--config.{field}=none"]), field) == value


def test_a_sweep_swaps_and_unsets_and_says_it_once(capsys):
  plan._print_once.cache_clear()
  for seed in ("0", "1"):
    point = {"schedule.name": "variance_preserving", "loss.weighting": "None", "seed": seed}
    config = plan.resolve(NCSN, [], point)
    assert config.schedule.sigma_max is config.loss.weighting is None
  (line,) = capsys.readouterr().err.splitlines()
  assert "dropped schedule.rho = 7.0" in line


@pytest.mark.e2e
def test_an_ensemble_is_built_of_swapped_parts():
  typed = ["schedule.name=variance_preserving", "ensemble.seeds=2"]
  typed += ["ensemble.over=schedule.beta_max=10,20", "evaluation.score_levels=()"]
  config = read_config(NCSN, [f"--config.{change}" for change in typed])
  ensemble = ensembles.build(config)
  assert [m.over for m in ensemble.members][::2] == [
    {"schedule.beta_max": 10.0},
    {"schedule.beta_max": 20.0},
  ]
