"""Exact laws in an evaluation: their budget, against the functions that know each part."""

import json

import jax
import matplotlib.pyplot as plt
import pytest

from configs import base, ncsn_gmm
from scorelab import evaluation, samplers
from scorelab.evaluation.exact_laws import NAMES, measure_chain
from scorelab.evaluation.figures import budget_figure, nats_figure
from scorelab.evaluation.table import format_table
from scorelab.exact import flow_distances, flow_kl, gaussian_budget, sde_certificate
from scorelab.exact.responses import in_float64
from scorelab.experiment.build import build
from scorelab.metrics.budget import BUDGET
from scorelab.runs.signals import StopFlag
from scorelab.runs.workdir import open_workdir
from scorelab.schedules import uniform_log_snr

KL, W2 = NAMES.values()


def measured(tmp_path, target, rows=(), *, learned=True, exact=True, **options):
  """Evaluates an untrained network, or the exact score: result, experiment, parameters."""
  config = ncsn_gmm.get_config("fast")
  if not learned:
    base.exact(config)
  config.target.name = target
  config.target.update(options)
  config.network.update(width=8, depth=1, num_features=4)
  config.schedule.update(sigma_max=10.0)
  config.sampler.num_steps = 4
  config.evaluation.update(num_samples=20, num_reference=20, rows=rows, exact=exact)
  config.evaluation.update(metrics=("energy_distance",), score_levels=())
  experiment = build(config)
  params = experiment.init_params(jax.random.key(0))
  workdir = open_workdir(tmp_path, experiment.config, {})
  result = evaluation.evaluate(experiment, params, workdir, StopFlag())
  assert json.loads(workdir.evaluation.read_text()) == result
  return result, experiment, params


@pytest.mark.e2e
def test_a_learned_score_on_the_line(tmp_path):
  """Every part is what flow_distances gives of its law; the parts add up; a row has a reason."""
  result, experiment, params = measured(tmp_path, "two_modes_1d", ("dpmpp_2m_sde:4",))
  target, grid = experiment.target, experiment.evaluation.rows[0].grid
  with jax.enable_x64(True):
    network = experiment.parameterization.bind(in_float64(params))
  laws = [(target.predict, "true"), (target.predict, "prior"), (network, "prior")]
  true, prior, learned = (
    flow_distances(samplers.dpmpp_2m, predict, target, grid, start=start) for predict, start in laws
  )
  for name, shown in NAMES.items():
    numbers = result["rows"][0]["metrics"][shown]
    assert numbers["floor"] == 0 and numbers["sem"] is None
    assert numbers["discretisation"] == pytest.approx(true[name].value, rel=1e-12)
    assert numbers["value"] == pytest.approx(learned[name].value, rel=1e-12)
    apart = learned[name].value - prior[name].value
    assert numbers["learning"] == pytest.approx(apart, rel=1e-9)
    assert sum(numbers[part] for part in BUDGET) == pytest.approx(numbers["value"], rel=1e-14)
    assert 0 < numbers["error"] < 1e-6
  chain = result["rows"][1]
  assert chain["metrics"][KL]["value"] is None
  assert "dpmpp_2m_sde is no chain of one-step moves" in chain["not_exact"]
  assert "no exact law, dpmpp_2m_sde-4: sampler = dpmpp_2m_sde" in format_table(result)
  assert chain["metrics"]["energy_distance"]["value"] > 0
  levels = result["flow"]["sigma"]
  assert levels[0] == pytest.approx(10.0, rel=1e-5) and levels[-1] == pytest.approx(0.02, rel=1e-5)
  assert result["flow"]["kl"][0] == pytest.approx(result["girsanov"]["prior"], rel=0.2)  # by draws
  assert "exact KL(data || probability flow), nats" in format_table(result)
  chain = uniform_log_snr(experiment.schedule, 4, to_data=False)
  found = sde_certificate(network, target, chain, range(5))
  assert result["ancestral"]["sigma"] == pytest.approx(levels, rel=1e-5)
  assert result["ancestral"]["kl"] == pytest.approx([kl.value for kl in found], rel=1e-5)
  assert max(result["ancestral"]["error"]) < 1e-5
  assert "exact KL(data || ancestral sampler, 4 steps), nats" in format_table(result)
  plt.close(budget_figure(result))
  figure = nats_figure(experiment, result)
  assert legend(figure) == {
    "Girsanov's bound (reverse SDE, continuous time)",
    "prior's part",
    "probability flow",
    "ancestral sampler, 4 steps",
  }
  plt.close(figure)


def legend(figure):
  """The texts of a figure's legend."""
  return {text.get_text() for text in figure.legends[0].get_texts()}


@pytest.mark.e2e
def test_certificates_of_old_evaluations_and_of_levels_without_a_law(tmp_path):
  """Without the sampler's KL the flow's is shown; a level that is refused has a line."""
  result, experiment, _ = measured(tmp_path, "two_modes_1d")
  chain = result.pop("ancestral")
  assert "ancestral sampler," not in format_table(result)
  figure = nats_figure(experiment, result)
  assert "probability flow" in legend(figure) and len(legend(figure)) == 3
  plt.close(figure)
  chain["kl"][-1] = chain["error"][-1] = None
  table = format_table(result | {"ancestral": chain | {"refused": "the law at 0.02 needs nodes"}})
  (line,) = (line for line in table.splitlines() if "ancestral sampler, 4 steps" in line)
  assert line.endswith(" -") and "no exact law: the law at 0.02 needs nodes" in table
  plt.close(nats_figure(experiment, result | {"ancestral": chain}))


@pytest.mark.e2e
def test_a_chain_on_too_many_steps_is_refused_at_its_cleanest_level():
  """On nine modes with 128 steps, by name; without a network, whose law would take a minute."""
  config = base.exact(ncsn_gmm.get_config("fast"))
  config.sampler.num_steps = 126
  found = measure_chain(build(config), {})
  assert found["num_steps"] == 128 and found["kl"][-1] is None and None not in found["kl"][:-1]
  assert "sigma / alpha = 0.02 needs too many nodes on this grid of 128 steps" in found["refused"]


@pytest.mark.e2e
def test_the_exact_score_of_a_gaussian(tmp_path):
  """Nothing is learned, and a stochastic sampler in the plane has a law."""
  rows = ("ancestral:3",)
  result, experiment, _ = measured(tmp_path, "ring", rows, learned=False, num_modes=1)
  for row, sampler in zip(result["rows"], (samplers.dpmpp_2m, samplers.ancestral), strict=True):
    grid = experiment.evaluation.rows[result["rows"].index(row)].grid
    for name, shown in NAMES.items():
      expected = gaussian_budget(sampler, experiment.target, grid, distance=name)
      numbers = row["metrics"][shown]
      assert numbers["value"] == pytest.approx(expected.value, rel=1e-12)
      assert numbers["prior"] == pytest.approx(expected.prior, rel=1e-9)
      assert numbers["learning"] == 0
    assert "not_exact" not in row


@pytest.mark.e2e
def test_a_learned_score_in_the_plane(tmp_path):
  """KL has all parts, W2 those of the exact score's Gaussian law."""
  result, experiment, params = measured(tmp_path, "ring", num_modes=1)
  with jax.enable_x64(True):
    network = experiment.parameterization.bind(in_float64(params))
  grid = experiment.evaluation.rows[0].grid
  learned = flow_kl(samplers.dpmpp_2m, network, experiment.target, grid, rtol=0.1)
  kl, w2 = (result["rows"][0]["metrics"][name] for name in (KL, W2))
  assert kl["value"] == pytest.approx(learned.value, rel=1e-12)
  assert kl["value"] == pytest.approx(kl["discretisation"] + kl["prior"] + kl["learning"])
  assert w2["value"] is None and w2["learning"] is None and w2["discretisation"] > 0


@pytest.mark.e2e
@pytest.mark.parametrize(
  ("target", "reason"),
  [("moons", "target = <Points> is no GaussianMixture"), ("two_modes_1d", "")],
)
def test_targets_without_exact_laws_say_so(tmp_path, target, reason):
  """In one line, and the sampled metrics stay; without the option there is no line."""
  result, *_ = measured(tmp_path, target, exact=bool(reason))
  (row,) = result["rows"]
  assert row["metrics"].keys() == {"energy_distance"}
  assert row.get("not_exact", "") == reason
  assert ("no exact laws" in format_table(result)) == bool(reason)
