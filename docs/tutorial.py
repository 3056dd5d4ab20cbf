# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # From the exact score to a Pareto table
#
# A diffusion model is judged by its samples, and they can be wrong for four reasons. Here the truth
# is known, so each of them gets its number. A minute on two idle CPU cores; as a notebook:
# `jupytext --to ipynb docs/tutorial.py`.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

from scorelab.losses import LOSSES, levels
from scorelab.metrics import energy_distance, score_error
from scorelab.networks import ResidualMLP
from scorelab.predictions import EDM, log_sigma
from scorelab.samplers import SAMPLERS
from scorelab.schedules import VarianceExploding, uniform_log_snr
from scorelab.targets.mixtures import nine_modes
from scorelab.typing import Context

TRAINING_STEPS, BATCH_SIZE = 1500, 1024
NUM_SAMPLES, NUM_KEYS = 2000, 4
SOLVERS, BUDGETS = ("ddim", "dpmpp_2m"), (4, 8, 16, 32)

# %% [markdown]
# ## The truth
#
# A mixture of nine Gaussians. `target.score` is the gradient of its log-density, in closed form;
# and so is that of every noisy version of it, since noise turns a mixture into a mixture.

# %%
target = nine_modes()
data = target.sample(jax.random.key(0), 10_000)
print(f"std of the data {float(target.scale):.1f}, in {target.event_shape} dimensions")

# %% [markdown]
# ## Noise
#
# x_t = alpha(t) x_0 + sigma(t) eps. Here alpha is 1 and sigma goes from 0.02 to 80, well above the
# data's std: what is left of the data at sigma = 80 is the first error, the *prior*'s.

# %%
schedule = VarianceExploding(sigma_min=0.02, sigma_max=80.0)
grid = uniform_log_snr(schedule, 16, sigma_min=0.05)
print("sigma:", np.round(np.asarray(grid.levels.sigma), 2))

# %% [markdown]
# ## Sampling with the exact score
#
# A sampler takes a `predict` function, and `target.predict` is one. What it gets wrong is the
# second error, *discretisation*: there is no network yet.


# %%
def sample(key, predict, name, grid):
  """Samples by the sampler of that name from the prior."""
  start_key, key = jax.random.split(key)
  start = grid.prior(start_key, (NUM_SAMPLES, 2))
  return SAMPLERS[name](key, predict, start, grid)


exact = jax.jit(lambda key: sample(key, target.predict, "dpmpp_2m", grid).x)(jax.random.key(1))

# %% [markdown]
# ## How good are they?
#
# A distance between two finite sets is not zero even where both are exact. That is the *floor*, and
# every number should be compared with it.

# %%
floor = np.mean(
  [
    energy_distance(None, target.sample(jax.random.key(10 + k), NUM_SAMPLES), data)
    for k in range(NUM_KEYS)
  ]
)
print(f"energy distance {energy_distance(None, exact, data):.4f}, floor {floor:.4f}")

# %% [markdown]
# ## Learning
#
# A network conditioned on log sigma, with EDM's preconditioning, so that its inputs and outputs are
# of order one, and denoising as the loss. The loop is a scan, and every batch has new points.

# %%
network = ResidualMLP(width=96, depth=2)
model = EDM(network.apply, log_sigma, data_std=float(target.scale))
loss = LOSSES["ncsn"](
  model, schedule, weighting=lambda level: levels.edm_weight(level, data_std=model.data_std)
)
params = network.init(jax.random.key(2), jnp.zeros((1, 2)), jnp.zeros(1))["params"]
rule = optax.adam(optax.cosine_decay_schedule(3e-3, TRAINING_STEPS))


def train_step(state, key):
  """One step of Adam on fresh points."""
  params, opt_state = state
  data_key, loss_key = jax.random.split(key)
  batch = {"x": target.sample(data_key, BATCH_SIZE)}
  context = Context(step=jnp.zeros((), int), ema={})
  (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params, loss_key, batch, context)
  updates, opt_state = rule.update(gradient, opt_state)
  return (optax.apply_updates(params, updates), opt_state), value


keys = jax.random.split(jax.random.key(3), TRAINING_STEPS)
(params, _), losses = jax.jit(lambda state: jax.lax.scan(train_step, state, keys))(
  (params, rule.init(params))
)
print(f"loss {float(losses[:50].mean()):.3f} -> {float(losses[-50:].mean()):.3f}")
learned = model.bind(params)

# %% [markdown]
# The loss has an unknown floor, unless the truth is known: then the error of the score
# itself can be measured, at every level. This is the third error, *learning*.

# %%
measured = schedule.at(schedule.time(-jnp.log(jnp.array([0.05, 0.5, 5.0, 50.0]))))
found = score_error(jax.random.key(4), target, learned, measured, 2000)
for sigma, error, sem in zip(measured.sigma, found.relative, found.relative_sem, strict=True):
  print(f"sigma {float(sigma):5.2f}: relative score error {float(error):.4f} +- {float(sem):.4f}")

# %% [markdown]
# ## The Pareto table
#
# Samplers with as many calls of the network as they are allowed, each with the truth and with the
# network, on the same keys. Left of the bar is discretisation alone, across it what learning adds.


# %%
def distance(predict, name, grid):
  """Mean energy distance over the keys, and the calls of predict for one sample."""
  run = jax.jit(lambda key: sample(key, predict, name, grid))
  drawn = [run(jax.random.key(20 + k)) for k in range(NUM_KEYS)]
  return np.mean([energy_distance(None, s.x, data) for s in drawn]), int(drawn[0].nfe)


table = {}
print(f"energy distance over its floor of {floor:.4f}\n{'':10} NFE   truth | network")
for name in SOLVERS:
  for num_steps in BUDGETS:
    grid = uniform_log_snr(schedule, num_steps, sigma_min=0.05)
    (truth, nfe), (ours, _) = (distance(p, name, grid) for p in (target.predict, learned))
    table[name, nfe] = ours / floor
    print(f"{name:10} {nfe:3} {truth / floor:7.2f} | {ours / floor:.2f}")

# %% [markdown]
# Who is on the front is who has no other below and to the left. From some number of calls on, more
# steps gain nothing: what remains is the floor, and what the network has not learned.

# %%
figure, axes = plt.subplots(figsize=(5, 3.5))
for name in SOLVERS:
  rows = [(nfe, ours) for (other, nfe), ours in table.items() if other == name]
  axes.plot(*zip(*rows, strict=True), marker="o", label=name)
axes.axhspan(0, 1, color="0.9", label="floor (exact v exact)")
axes.set(xscale="log", yscale="log", xlabel="NFE", ylabel="energy distance / floor")
axes.set_xticks(BUDGETS, map(str, BUDGETS))
axes.legend()

# %% [markdown]
# `python main.py --config=configs/ncsn_gmm.py` does all this at its full size, with standard
# errors, more metrics and figures, and can be stopped and resumed; `python scripts/pareto.py` draws
# the front for every sampler.
