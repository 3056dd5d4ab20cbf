"""Steps of a discrete process, as diffusers' schedulers choose them."""

import numpy as np
import pytest

from scorelab.schedules import Cosine, Discrete, linear_betas, timesteps

SCHEDULE = Discrete(linear_betas())


@pytest.mark.parametrize(
  ("num_steps", "options", "known"),
  [  # DDIMScheduler(timestep_spacing=..., steps_offset=...).set_timesteps(n), diffusers 0.42.1
    (4, {}, [750, 500, 250, 0]),
    (7, {}, [852, 710, 568, 426, 284, 142, 0]),
    (4, {"steps_offset": 1}, [751, 501, 251, 1]),
    (4, {"spacing": "trailing"}, [999, 749, 499, 249]),
    (7, {"spacing": "trailing"}, [999, 856, 713, 570, 428, 285, 142]),
    (4, {"spacing": "linspace"}, [999, 666, 333, 0]),
    (1, {"spacing": "linspace"}, [0]),
  ],
)
def test_steps_are_those_of_diffusers(num_steps, options, known):
  grid = timesteps(SCHEDULE, num_steps, **options)
  found = np.round(np.asarray(grid.levels.t) * 1000) - 1
  np.testing.assert_array_equal(found, [*known, -1])
  assert grid.ends_at_data
  np.testing.assert_allclose(
    grid.levels.alpha[:-1] ** 2, np.cumprod(1 - linear_betas())[known], rtol=1e-5
  )


def test_open_grids_end_at_the_cleanest_step():
  grid = timesteps(SCHEDULE, 4, steps_offset=1, to_data=False)
  np.testing.assert_array_equal(
    np.round(np.asarray(grid.levels.t) * 1000) - 1, [751, 501, 251, 1, 0]
  )


@pytest.mark.parametrize(
  ("schedule", "num_steps", "options", "line"),
  [
    (Cosine(), 4, {}, "Cosine has none"),
    (SCHEDULE, 1001, {}, "do not fit in 1000"),
    (SCHEDULE, 4, {"steps_offset": 250}, "do not fit in 1000"),
    (SCHEDULE, 4, {"spacing": "even"}, "spacing = 'even' must be one of leading"),
  ],
)
def test_what_makes_no_steps(schedule, num_steps, options, line):
  with pytest.raises(ValueError, match=line):
    timesteps(schedule, num_steps, **options)
