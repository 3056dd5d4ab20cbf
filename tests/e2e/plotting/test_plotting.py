"""Figures show what they were given; their files are small and say their command."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.container import BarContainer
from PIL import Image

from configs import ncsn_gmm
from scorelab import plotting
from scorelab.evaluation import figures as summary
from scorelab.evaluation import table as tables
from scorelab.evaluation.figures import draw_run
from scorelab.experiment.build import build
from scorelab.metrics import budget
from scorelab.plotting import animations, budgets, comparisons, curves, fields, style, trajectories
from scorelab.report import collect
from scorelab.runs.files import append_jsonl, write_json
from scorelab.runs.signals import Preempted, StopFlag
from scorelab.runs.workdir import Workdir, open_workdir
from scorelab.samplers import KERNELS, SAMPLERS

COMMAND = "python main.py --config=configs/ncsn_gmm.py"


def budget_of(floor, discretisation, prior, learning, sem=0.1):
  parts = {"floor": floor, "discretisation": discretisation, "prior": prior, "learning": learning}
  sems = {f"{part}_sem": sem for part in parts}
  return {"value": sum(parts.values()), "sem": sem, **parts, **sems}


BUDGETS = [budget_of(1.2, 0.5, 0.3, -0.4), budget_of(1.2, -0.1, 0.2, 1.0)]


def assert_saves(figure, tmp_path, name="figure"):
  path = plotting.save(figure, tmp_path / "figures" / f"{name}.png", COMMAND)
  assert 3000 < path.stat().st_size <= style.MAX_PNG_BYTES
  assert Image.open(path).info["Description"] == COMMAND


def labelled(figure):
  return all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes if ax.get_visible())


def test_grids_and_their_gains(tmp_path):
  """Every level is drawn, and numbers over those of the best other grid."""
  levels = {"made": np.array([80.0, 5.0, 0.3]), "karras": np.array([80.0, 3.0, 0.1])}
  row = {"grid": "karras", "mean": 0.5, "gain": 0.1, "gain_sem": 0.01}
  figure = comparisons.grids(levels, [("ring", "distance", row)], "2 keys")
  left, right = figure.axes
  drawn = [np.asarray(line.get_xdata()) for line in left.lines]
  np.testing.assert_array_equal(drawn, list(levels.values()))
  np.testing.assert_allclose(right.lines[0].get_xdata(), [0.8])
  assert_saves(figure, tmp_path)


class TestStyle:
  def test_every_sampler_has_a_colour_of_its_own(self):
    """And the names of one sampler the same one."""
    names: dict = {}
    for name, sampler in (SAMPLERS | KERNELS).items():
      names.setdefault(sampler, []).append(name)
    colours = [{style.SAMPLER_COLOURS[name] for name in same} for same in names.values()]
    assert all(len(of_one) == 1 for of_one in colours)
    assert len(set.union(*colours)) == len(names)
    assert len(set(style.PART_COLOURS.values())) == 7

  def test_parts_of_the_budget_have_one_order(self):
    """Tables, figures and reports: that in which they add up, from exact samples to the network."""
    order = ("floor", "guidance", "discretisation", "prior", "likelihood", "particles", "learning")
    assert tables.PARTS == tuple(style.PART_COLOURS) == collect.PARTS == order
    for parts in (budget.BUDGET, budget.GUIDED_BUDGET, budget.POSTERIOR_BUDGET):
      assert parts == tuple(part for part in tables.PARTS if part in parts)

  def test_samplers_of_ones_own_have_colours(self):
    names = [f"my_module.sampler_{i}" for i in range(8)]
    colours = [style.sampler_colour(name) for name in names]
    assert style.BLACK not in colours and len(set(colours)) > 3
    assert colours == [style.sampler_colour(name) for name in names]

  def test_a_reduced_palette_keeps_the_colours_of_thin_lines(self, tmp_path):
    """A figure of too many bytes; the median of its colours alone changes the line's by 35."""
    figure = style.new_figure(5, 4)
    ax = figure.subplots()
    noise = np.random.default_rng(0).random((300, 400))
    ax.imshow(noise, cmap="viridis", aspect="auto", extent=(0, 1, 0, 0.9))
    ax.plot([0, 1], [0.95, 0.95], color=style.VERMILLION, lw=2)
    ax.set_ylim(0, 1)
    pixels = np.asarray(Image.open(plotting.save(figure, tmp_path / "a.png", "x")).convert("RGB"))
    wanted = np.array([0xD5, 0x5E, 0x00])
    assert np.abs(pixels.astype(int) - wanted).max(axis=-1).min() <= 4

  def test_nothing_is_set_outside_the_context(self):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style.context():
      assert matplotlib.rcParams["font.size"] == 9
    assert dict(matplotlib.rcParams) == before

  @pytest.mark.slow
  def test_a_large_figure_is_made_to_fit(self, tmp_path):
    figure = style.new_figure(5, 4)
    figure.subplots().imshow(np.random.default_rng(0).random((480, 600, 3)), aspect="auto")
    assert_saves(figure, tmp_path)

  def test_nfe_ticks_are_the_integers_asked_for(self):
    figure = style.new_figure(4, 3)
    ax = figure.subplots()
    ax.plot([4, 100], [0, 1])
    style.nfe_axis(ax, [4, 9, 100])
    figure.draw_without_rendering()
    shown = [t.get_text() for t in ax.get_xticklabels(which="both") if t.get_text()]
    assert shown == ["4", "9", "100"] and "NFE" in ax.get_xlabel()

  def test_csv_reads_back_as_the_same_numbers(self, tmp_path):
    rows = [
      {"name": "a, b", "value": 1 / 3, "sem": None},
      {"name": "c", "value": float(np.float32(0.1)), "sem": float("nan")},
    ]
    path = plotting.write_csv(tmp_path / "new" / "numbers.csv", rows, COMMAND)
    assert path.read_text().startswith(f"# {COMMAND}\nname,value,sem\n")
    found = plotting.read_csv(path)
    assert [r["name"] for r in found] == ["a, b", "c"]
    assert [r["value"] for r in found] == [r["value"] for r in rows]
    assert np.isnan([r["sem"] for r in found]).all()


class TestBudgets:
  def test_bars_add_up_to_the_value(self, tmp_path):
    figure = budgets.bars(["a", "b"], {"energy_distance": BUDGETS}, "caption")
    (ax,) = figure.axes
    for y, row in enumerate(BUDGETS):
      bars = {c.get_label(): c[0] for c in ax.containers if isinstance(c, BarContainer)}
      own = {part: bars[f"{part} {y}"] for part in budget.BUDGET}
      for part, bar in own.items():
        assert bar.get_width() == pytest.approx(row[part])
        assert bool(bar.get_hatch()) == (row[part] < 0)
      assert sum(bar.get_width() for bar in own.values()) == pytest.approx(row["value"])
      diamonds = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"]
      assert diamonds[y] == pytest.approx(row["value"])
    assert ax.get_xlabel() == "energy distance"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert_saves(figure, tmp_path)

  def test_bars_without_numbers(self, tmp_path):
    row = dict.fromkeys(BUDGETS[0]) | {"value": 2.0}
    figure = budgets.bars(["a"], {name: [row] for name in "abcd"}, "caption")
    assert not any(isinstance(c, BarContainer) for ax in figure.axes for c in ax.containers)
    assert_saves(figure, tmp_path)

  def test_bands_end_on_the_value(self, tmp_path):
    nfe = np.array([4, 16])
    published = {"learning": np.array([1.5, np.nan])}
    panel = budgets.Bands("eta = 0", "max_sliced_wasserstein", nfe, BUDGETS, published)
    figure = budgets.bands([[panel, panel], [panel, panel]], "caption")
    assert figure.axes[0].get_ylabel() == "max-sliced W2" and "NFE" in figure.axes[-1].get_xlabel()
    lines = figure.axes[0].lines
    values = [row["value"] for row in BUDGETS]
    np.testing.assert_allclose(lines[3].get_ydata()[[0, -1]], values)  # after the fourth part
    assert any(list(line.get_ydata()) == pytest.approx(values) for line in lines[4:])
    np.testing.assert_array_equal(lines[4].get_ydata(), published["learning"])
    assert any(c.get_hatch() for c in figure.axes[0].collections)
    assert_saves(figure, tmp_path)


class TestCurves:
  HISTORY = tuple(
    {"step": s, "loss": 100 / s, "band_loss": [1.0, None, 0.1 * s]} for s in (1, 10, 100)
  )

  def test_loss(self, tmp_path):
    history = [*self.HISTORY[:2], {**self.HISTORY[2], "val_loss": 0.9}]
    figure = curves.loss(history, np.array([0.1, 1, 10, 100]), "caption", {"optimum": 0.8})
    assert labelled(figure) and len(figure.axes) == 2
    training, validation, optimum = figure.axes[0].lines
    assert list(training.get_ydata()) == [100, 10, 1]
    assert (validation.get_xdata()[0], validation.get_ydata()[0]) == (100, 0.9)
    assert "optimum: 0.8" in optimum.get_label()
    bands = [line.get_label() for line in figure.axes[1].lines]
    assert bands == ["0.1 to 1", "1 to 10", "10 to 100"]
    assert_saves(figure, tmp_path)

  def test_a_loss_of_one_level_has_no_bands(self):
    history = [{**h, "band_loss": [None, h["loss"], None]} for h in self.HISTORY]
    assert len(curves.loss(history, np.array([0.1, 1, 10, 100]), "caption").axes) == 1

  @pytest.mark.parametrize("with_error", [True, False])
  def test_overfitting(self, with_error, tmp_path):
    # Held-out loss -9, -10, 400, 9000 while the training loss falls on.
    validated = {100: -9.0, 200: -10.0, 300: 400.0, 400: 9000.0}
    history = [{"step": s, "loss": -9 - (s / 100) ** 3} for s in range(50, 401, 50)]
    for line in history:
      if line["step"] in validated:
        line["val_loss"] = validated[line["step"]]
        line.update({"score_error": line["step"] / 100} if with_error else {})
    figure = curves.overfitting(history, "caption", optimum=-10.0)
    assert labelled(figure) and len(figure.axes) == 1 + with_error
    for ax in figure.axes:
      (mark,) = (line for line in ax.lines if "lowest" in str(line.get_label()))
      assert list(mark.get_xdata()) == [200, 200]
    by_label = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    assert list(by_label["validation"].get_ydata()) == list(validated.values())
    assert len(by_label["training"].get_ydata()) == len(history)
    assert "optimum: -10" in by_label
    assert figure.axes[0].get_yscale() == "symlog"  # 9000 and -10 are both to be seen
    if with_error:
      assert list(figure.axes[1].lines[1].get_ydata()) == [1, 2, 3, 4]
    assert_saves(figure, tmp_path)

  def test_overfitting_before_the_first_validation(self, tmp_path):
    figure = curves.overfitting([{"step": 1, "loss": -1.0}], "caption")
    assert [line.get_label() for line in figure.axes[0].lines] == ["training"]
    assert_saves(figure, tmp_path)

  def test_loss_without_a_step(self, tmp_path):
    figure = curves.loss([], None, "caption")
    assert "no training step" in [text.get_text() for text in figure.axes[0].texts]
    assert_saves(figure, tmp_path)

  def test_score_error(self, tmp_path):
    errors = {"sigma": [0.1, 1.0], "absolute": [0.1, 0.2], "relative": [0.01, 0.3]}
    figure = curves.score_error(errors, "caption")
    (ax,) = figure.axes
    assert labelled(figure) and ax.get_xscale() == ax.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in ax.lines] == [errors["relative"], errors["absolute"]]
    assert_saves(figure, tmp_path)

  def test_score_error_at_the_data(self, tmp_path):
    errors = {"sigma": [0.0, 1.0], "absolute": [0.0, 0.2], "relative": [0.01, 0.3]}
    figure = curves.score_error(errors, "caption")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "1"]
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), [np.nan, 0.2])
    assert_saves(figure, tmp_path)

  @pytest.mark.parametrize("by_mode", [[0.1, 0.3], [0.0, 0.0]])
  def test_score_error_of_one_level_is_shown_by_mode(self, by_mode, tmp_path):
    errors = {"sigma": [0.0], "absolute": [0.0], "relative": [by_mode[1] / 2]}
    figure = curves.score_error({**errors, "relative_by_mode": by_mode}, "caption")
    (ax,) = figure.axes
    assert labelled(figure) and [bar.get_height() for bar in ax.patches] == by_mode
    assert bool(ax.texts) == (by_mode == [0, 0])  # "the score is exact"
    assert_saves(figure, tmp_path)

  def test_girsanov(self, tmp_path):
    bound = {"sigma": [10.0, 1.0, 0.1], "density": [0.1, None, 0.3], "density_sem": [0.01] * 3}
    bound |= {"prior": 0.2, "prior_sem": 0.01, "learning": 0.5, "learning_sem": None}
    figure = curves.girsanov({**bound, "total": 0.00077, "total_sem": 0.00002}, "caption")
    (ax,) = figure.axes
    assert labelled(figure) and ax.get_xscale() == "log" and ax.get_ylim()[0] == 0
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.1, np.nan, 0.3])
    assert "0.2 ± 0.01 nats" in " ".join(ax.get_legend_handles_labels()[1])
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1  # no line is cut off
    assert_saves(figure, tmp_path)

  @pytest.mark.parametrize("panels", [1, 3])
  def test_quality(self, panels, tmp_path):
    nfe, value = np.array([4, 9]), np.array([2.0, 1.5])
    look = {"color": style.BLUE, "marker": "s"}
    curve = curves.Curve("ddim", nfe, value, np.array([0.1, np.nan]), look, np.array([2.1, 1.4]))
    panel = curves.Panel("energy_distance", [curve], 1.0, float("nan") if panels > 1 else 0.1)
    figure = curves.quality([panel] * panels, "caption")
    assert labelled(figure) and len(figure.axes) == panels
    ax = figure.axes[0]
    assert ax.get_ylim()[0] == 0
    by_label = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    assert "floor (exact v exact)" in by_label and "published" in by_label
    np.testing.assert_array_equal(by_label["ddim"].get_ydata(), value)
    assert_saves(figure, tmp_path)


class TestFields:
  @pytest.mark.parametrize("dim", [1, 2, 5])
  def test_samples(self, dim, tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, dim))
    off = np.arange(300) < 3
    clouds = [fields.Cloud(points, "exact", style.GREY), fields.Cloud(points, "x", style.BLUE, off)]
    field = None
    if dim <= 2:
      x = fields.lattice(-np.ones(dim), np.ones(dim), 8)
      field = fields.ScoreField(x, -x, -1.1 * x, sigma=0.5)
    figure = fields.samples(clouds, field, "caption")
    assert "1 % off mode" in figure.axes[1].get_title()
    assert len(figure.axes) == {1: 3, 2: 2 + 3 + 3, 5: 2}[dim]  # with three colour bars
    assert figure.axes[0].get_aspect() == (1.0 if dim > 1 else "auto")
    assert_saves(figure, tmp_path)

  @pytest.mark.parametrize("number", [2, 5, 7])
  def test_titles_and_captions_are_whole(self, number):
    """Long titles over axes of equal scales: nothing is cut off, and nothing is on the caption."""
    points = np.random.default_rng(0).normal(size=(50, 2))
    title = "predictor_corrector-\n16-snr=0.1"
    clouds = [fields.Cloud(points, title, style.BLUE, points[:, 0] > 9)] * number
    figure = fields.samples(clouds, None, "caption")
    figure.canvas.draw()
    (caption,) = (t for t in figure.texts if t.get_text() == "caption")
    low = caption.get_window_extent().y1
    boxes = [ax.get_tightbbox() for ax in figure.axes if ax.get_visible()]
    assert all(box.y1 <= figure.bbox.y1 and box.y0 >= low - 1 for box in boxes)

  def test_unlike_scales_and_names_of_coordinates(self):
    """Income and age: panels are square, each coordinate on a scale of its own."""
    points = np.random.default_rng(0).normal(size=(50, 2)) * [15_000, 10]
    clouds = [fields.Cloud(points, "exact", style.GREY)] * 2
    figure = fields.samples(clouds, None, "caption", names=("income", "age"))
    first = figure.axes[0]
    assert (first.get_xlabel(), first.get_ylabel()) == ("income", "age")
    figure.canvas.draw()
    box = first.get_window_extent()
    assert box.width == pytest.approx(box.height, rel=0.02)
    for side, (low, high) in zip(points.T, (first.get_xlim(), first.get_ylim()), strict=True):
      assert high - low == pytest.approx(1.2 * np.ptp(side))

  def test_score_map(self, tmp_path):
    x = fields.lattice(-np.ones(2), np.ones(2), 15)
    field = fields.ScoreField(x, -x, -1.1 * x, sigma=0.5)
    # Arrows stand where a lattice of their own number of points would.
    np.testing.assert_allclose(
      fields.thinned(field, 3).x, fields.lattice(-np.ones(2), np.ones(2), 5), atol=1e-12
    )
    figure = fields.score_map(field, 3, 0.1 * x, {(0.0, 0.5): 0.0123}, "caption")
    shown = [text.get_text() for text in figure.axes[2].texts]
    assert shown == ["1.23%"] and len(figure.axes) == 3 + 3
    gap = figure.axes[2].collections[0].get_array()
    np.testing.assert_allclose(gap.ravel(), 0.1 * np.linalg.norm(x, axis=1), atol=1e-12)
    assert_saves(figure, tmp_path)

  def test_arrows_point_along_the_score(self):
    score = np.array([[1e-4, 0.0], [0.0, -1.0], [0.0, 0.0]])
    vectors, size = fields.arrows(score)
    np.testing.assert_allclose(vectors, [[0.1, 0], [0, -1], [0, 0]])
    np.testing.assert_allclose(size, [1e-4, 1, 0])


class TestTrajectories:
  def test_chains(self, tmp_path):
    path = np.random.default_rng(0).normal(size=(6, 4, 2))
    x = fields.lattice(-np.ones(2), np.ones(2), 4)
    panels = [
      trajectories.Chains(path, name, "R-hat 1.00", colour, -x, np.array(shares))
      for name, colour, shares in (("a", style.BLUE, [1.0, 0.0]), ("b", style.BLACK, [0.5, 0.5]))
    ]
    figure = trajectories.chains(panels, x, path[0], np.array([0.25, 0.75]), "caption")
    assert [ax.get_title() for ax in figure.axes] == ["a\nR-hat 1.00", "b\nR-hat 1.00", ""]
    bars = {c.get_label(): [bar.get_height() for bar in c] for c in figure.axes[2].containers}
    assert bars == {"target": [0.25, 0.75], "a": [1, 0], "b": [0.5, 0.5]}
    *moved, start, end = figure.axes[0].lines
    assert len(moved) == 4
    np.testing.assert_array_equal(start.get_xydata(), path[0])
    np.testing.assert_array_equal(end.get_xydata(), path[-1])
    assert_saves(figure, tmp_path)

  def test_through_levels(self, tmp_path):
    std = np.array([0.0, 0.1, 1.0, 10.0])
    path = trajectories.LevelPath("eta = 1", 2 * std)
    figure = trajectories.through_levels([path, path], 0 * std, std, "caption")
    assert figure.axes[0].get_ylabel() and all(ax.get_xlabel() for ax in figure.axes)
    (band,) = figure.axes[1].collections
    assert band.get_datalim(figure.axes[1].transData).y1 == pytest.approx(30)
    assert figure.axes[0].get_yscale() == "symlog"
    assert_saves(figure, tmp_path)


class TestAnimations:
  @pytest.mark.parametrize("suffix", [".gif", ".mp4"])
  def test_moving_clouds(self, suffix, tmp_path):
    path = np.random.default_rng(0).normal(size=(3, 50, 2))
    x = fields.lattice(-np.ones(2), np.ones(2), 4)
    scores = np.stack([-x, -2 * x, -3 * x])
    options = {"colour": style.BLUE, "backdrop": path[0], "field": (x, [scores]), "trails": 2}
    figure, draw = animations.moving_clouds(
      [path], np.array([2.0, 1.0, 0.5]), np.array([3.0, 2.0, 1.0]), ["a"], "caption", **options
    )
    frames = plotting.render(figure, draw, 3)
    assert labelled(figure) and "sigma = 0.50" in figure.axes[0].get_title()
    assert figure.axes[0].get_xlim() == (-1, 1)
    assert not np.array_equal(frames[0], frames[2])
    file = plotting.save_animation(frames, tmp_path / "new" / f"a{suffix}", COMMAND, hold=0.5)
    assert 1000 < file.stat().st_size < animations.MAX_ANIMATION_BYTES
    assert COMMAND.encode() in file.read_bytes()
    if suffix == ".gif":
      image = Image.open(file)
      assert image.n_frames == 3
      near = np.abs(np.asarray(image.convert("RGB"), int) - frames[0])
      assert near.mean() < 4 and image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)

  def test_a_large_gif_loses_colours(self, tmp_path, monkeypatch):
    frames = [np.random.default_rng(i).integers(0, 256, (60, 60, 3), np.uint8) for i in range(4)]
    large = plotting.save_animation(frames, tmp_path / "a.gif", COMMAND).stat().st_size
    monkeypatch.setattr(animations, "MAX_ANIMATION_BYTES", 0.8 * large)
    small = plotting.save_animation(frames, tmp_path / "b.gif", COMMAND).stat().st_size
    assert small <= 0.8 * large

  def test_another_ending_is_refused(self, tmp_path):
    with pytest.raises(ValueError, match=r"a\.avi must end in"):
      plotting.save_animation([np.zeros((2, 2, 3), np.uint8)], tmp_path / "a.avi", COMMAND)


def pretend_run(path, target, **options):
  """An experiment on this target, its first parameters, and a folder as a run of it leaves one."""
  config = ncsn_gmm.get_config("fast")
  config.target.update(name=target, **options)
  config.network.update(width=8, depth=1, num_features=4)
  config.training.num_validation = 8
  config.evaluation.update(rows=("ddim:4:eta=1.0",), metrics=("energy_distance",))
  experiment = build(config)
  workdir = open_workdir(path, experiment.config, {})
  points = np.random.default_rng(0).normal(size=(2, 50, experiment.target.dim))
  sets = {"exact": points[0], "reference": points[1], "dpmpp_2m-10": points[0], "b": points[1]}
  np.savez(workdir.samples, **sets)
  names = {"dpmpp_2m-10": "dpmpp_2m", "b": "ddim"}
  rows = [
    {"label": label, "sampler": sampler, "nfe": 4, "metrics": {"energy_distance": BUDGETS[0]}}
    for label, sampler in names.items()
  ]
  protocol = {"num_keys": 2, "num_samples": 50, "num_reference": 50}
  protocol |= {"reference": "fresh", "num_projections": 10}
  errors = {"sigma": [0.1, 1.0], "absolute": [0.1, 0.2], "relative": [0.01, 0.3]}
  write_json(workdir.evaluation, {"protocol": protocol, "rows": rows, "score_error": errors})
  return experiment, experiment.init_params(jax.random.key(0)), workdir


class TestDrawRun:
  @pytest.mark.parametrize(
    ("target", "options"), [("nine_modes", {}), ("two_modes_1d", {}), ("grid25", {"dim": 4})]
  )
  def test_draws_any_mixture(self, target, options, tmp_path):
    experiment, params, workdir = pretend_run(tmp_path, target, **options)  # and no training step
    draw_run(experiment, params, workdir, StopFlag())
    assert {p.name for p in workdir.figures.iterdir()} == {
      *("loss.png", "samples.png", "budget.png", "score_error.png")
    }
    for path in workdir.figures.iterdir():
      assert 3000 < path.stat().st_size <= style.MAX_PNG_BYTES
      assert Image.open(path).info["Description"] == summary.typed_command(workdir)
    clouds = summary.run_clouds(experiment, workdir)
    assert [c.title for c in clouds] == ["exact samples", "dpmpp_2m-10", "b"]
    assert [c.colour for c in clouds[1:]] == [
      style.SAMPLER_COLOURS[n] for n in ("dpmpp_2m", "ddim")
    ]

  def test_the_bands_of_the_loss_are_those_of_the_schedule(self, tmp_path):
    experiment, _, workdir = pretend_run(tmp_path, "nine_modes")
    append_jsonl(workdir.metrics, {"step": 1, "loss": 1.0, "band_loss": [1.0, 2.0]})
    lines = summary.loss_figure(experiment, workdir).axes[1].lines
    assert [line.get_label() for line in lines] == ["0.02 to 1.26", "1.26 to 80"]

  def test_the_exact_score_is_exact(self, tmp_path):
    experiment, params, _ = pretend_run(tmp_path, "nine_modes")
    field = summary.middle_field(experiment, params, np.array([[-10.0, -10.0], [10.0, 10.0]]), 3)
    assert field.sigma == 2.0  # of the measured ones, nearest to a quarter of 7.8
    noised = experiment.target.perturbed(1.0, field.sigma)
    np.testing.assert_allclose(
      field.exact, noised.score(jnp.asarray(field.x)), rtol=1e-3, atol=1e-5
    )
    assert field.network.shape == (9, 2)

  def test_a_figure_that_fails_is_a_warning(self, tmp_path, capsys):
    """And the others are drawn; an old file of its name does not stand for it."""
    (tmp_path / "environment.json").write_text('{"command": ["main.py"]}')
    workdir = Workdir(tmp_path)
    workdir.figures.mkdir()
    (workdir.figures / "bad.png").touch()

    def bad():
      raise ValueError("Data cannot be log-scaled\nmore")

    def full():
      raise OSError("No space left on device")

    def good():
      return curves.loss([], None, "caption")

    summary.save_figures({"bad": bad, "good": good}, workdir, StopFlag())
    assert [p.name for p in workdir.figures.iterdir()] == ["good.png"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "bad.png" in line and line.endswith("log-scaled")
    with pytest.raises(OSError, match="No space"):  # main.py answers a full disk
      summary.save_figures({"full": full}, workdir, StopFlag())

  def test_sets_of_unlike_size_are_counted_apart(self, tmp_path):
    experiment, params, workdir = pretend_run(tmp_path, "grid25", dim=4)
    with np.load(workdir.samples) as arrays:
      sets = dict(arrays) | {"exact": arrays["exact"][:20]}
    np.savez(workdir.samples, **sets)
    text = summary.samples_figure(experiment, params, workdir).get_supxlabel()
    assert text.startswith("20 exact points, 50 of each sampler")

  def test_stops_between_figures(self, tmp_path):
    stop = StopFlag()
    stop.requested = True
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / "environment.json").write_text('{"command": ["/a b/main.py", "--config=x y"]}')
    workdir = Workdir(tmp_path)
    assert summary.typed_command(workdir) == "python main.py '--config=x y'"
    with pytest.raises(Preempted):
      draw_run(None, None, workdir, stop)
    assert not workdir.figures.exists()

  def test_a_target_without_modes_has_no_strays(self):
    @dataclasses.dataclass
    class Points:
      points: np.ndarray

    assert summary.off_mode(Points(np.zeros((2, 2))), np.zeros((3, 2))) is None
