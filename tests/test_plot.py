"""Pictures: what is drawn is what the engine computes, no peak is lost, and nothing of the user's is changed."""

import io
import math
import pickle

import numpy as np
import pytest
from matplotlib.figure import Figure
from support import output

import fastsched as fs
from fastsched import _outline, _plot
from fastsched._plot import plot

COSINE = fs.Cosine(steps=90).warmup(10)


def at(step, value, steps):
    """One half everywhere but for one update."""
    return fs.Constant(0.5, steps=step).then(fs.Constant(value, steps=1)).then(fs.Constant(0.5, steps=steps - step - 1))


def groups(count, decay=0.75):
    return [{"lr": 1e-3 * decay ** (count - 1 - i), "weight_decay": 0.05 if i % 2 else 0.0} for i in range(count)]


def curve(axes, i=0):
    line = axes.get_lines()[i]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def words(axes):
    return [text.get_text() for text in axes.texts]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []


def image(axes):
    """The cells of a heat map, rows from group 0 on."""
    (found,) = axes.get_images()
    return np.ma.filled(found.get_array(), np.nan)


def fresh():
    return Figure().subplots()


# ---- a schedule ----


def test_every_value_of_a_short_schedule_is_drawn():
    steps, values = curve(COSINE.plot())
    np.testing.assert_array_equal(steps, np.arange(100))
    np.testing.assert_array_equal(values, COSINE.table(100))


def test_a_window_begins_at_its_start():
    steps, values = curve(COSINE.plot(20, start=50))
    np.testing.assert_array_equal(steps, np.arange(50, 70))
    np.testing.assert_array_equal(values, COSINE.table(20, start=50))


def test_steps_may_go_beyond_the_end():
    assert curve(COSINE.plot(150))[0][-1] == 149


@pytest.mark.parametrize("step", [1, 123_456, 999_998])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_no_peak_of_a_long_schedule_is_lost(step, value):
    steps, values = curve(at(step, value, 10**6).plot())
    assert values[steps == step] == [value]


def test_what_is_drawn_of_a_long_schedule_are_its_own_values():
    schedule = fs.Cosine(steps=10**5).noisy(0.2, seed=3)
    steps, values = curve(schedule.plot())
    np.testing.assert_array_equal(values, schedule(steps))
    assert (steps[0], steps[-1]) == (0, 10**5 - 1)
    assert len(steps) <= 4098


@pytest.mark.parametrize("count", [4096, 4097, 5000, 8191, 10**5 + 7])
def test_each_columns_extremes_are_those_of_all_its_updates(count):
    values = np.random.default_rng(count).normal(size=count)
    steps, drawn = _outline.points(values, 0, count)
    columns = np.array_split(values, 2048)  # the wider columns first, as in a picture
    edges = np.cumsum([0, *map(len, columns)])
    for begin, end, column in zip(edges[:-1], edges[1:], columns, strict=True):
        inside = drawn[(begin <= steps) & (steps < end)]
        assert (inside.min(), inside.max()) == (column.min(), column.max())


def test_a_schedule_of_any_length_is_drawn_from_samples():
    steps, values = curve(fs.Cosine(steps=2**53).plot())
    assert (steps[0], steps[-1], values[0]) == (0, 2**53 - 1, 1.0)
    assert (np.diff(values) <= 0.0).all()


def test_an_endless_schedule_needs_steps():
    with pytest.raises(ValueError, match="plot: steps must be given where no schedule ends, got None; pass how many"):
        fs.InverseSqrt(timescale=10).plot()
    assert len(curve(fs.InverseSqrt(timescale=10).plot(50))[0]) == 50


@pytest.mark.parametrize(
    "schedule",
    [
        fs.Linear(1.0, 0.0, steps=1),
        fs.Linear(1.0, 0.0, steps=2),
        fs.Constant(0.0, steps=5),
        fs.Constant(-1e-300, steps=5),
        fs.Constant(1e290, steps=5),
        fs.Cosine(1.0, -1.0, steps=9),
        fs.Geometric(1e290, 1e-290, steps=9),
        fs.Exponential(1.0, gamma=1e10),  # infinite from update 31 on
    ],
)
@pytest.mark.parametrize("log", [None, False, True])
def test_odd_curves_can_be_drawn_on_any_scale(schedule, log):
    axes = schedule.plot(40 if schedule.steps == math.inf else None, log=log)
    axes.figure.savefig(io.BytesIO(), dpi=20)
    low, high = axes.get_ylim()
    assert -math.inf < low < high < math.inf


# ---- scales ----


@pytest.mark.parametrize(
    ("schedule", "scale"),
    [
        (COSINE, "linear"),
        (fs.Linear(1.0, 0.0, steps=100), "linear"),
        (fs.WarmupStableDecay(warmup=10, stable=70, decay=20), "linear"),
        (fs.OneCycle(steps=100), "linear"),
        (fs.CosineRestarts(first=25, cycles=4), "linear"),
        (fs.Constant(0.0, steps=9), "linear"),
        (fs.Cosine(1.0, -1e-9, steps=100), "linear"),
        (fs.MultiStep(milestones=[30, 60], gamma=0.1).head(90), "log"),
        (fs.Exponential(gamma=0.9).head(100), "log"),
        (fs.Geometric(1.0, 1e-4, steps=100).warmup(5), "log"),
    ],
)
def test_the_scale_is_logarithmic_where_that_reads_better(schedule, scale):
    assert schedule.plot().get_yscale() == scale


def test_the_scale_can_be_chosen():
    assert COSINE.plot(log=True).get_yscale() == "log"
    assert fs.Exponential(gamma=0.9).plot(100, log=False).get_yscale() == "linear"


def test_the_last_steps_before_a_zero_do_not_stretch_a_logarithmic_scale():
    low, _ = fs.Cosine(steps=10**6).plot(log=True).get_ylim()
    assert low > 1e-6  # the last value drawn is 2.5e-12


def test_all_values_are_within_the_limits():
    for schedule in (fs.Cosine(1.0, -1.0, steps=50), fs.Linear(0.9, 0.95, steps=50)):
        low, high = schedule.plot().get_ylim()
        values = schedule.table(50)
        assert low < values.min() <= values.max() < high


# ---- marks ----


def phases(schedule, start=0, count=None):
    return [tuple(phase) for phase in _outline.phases(schedule, start, count or int(schedule.steps))]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (COSINE, [(0, "warmup"), (10, "")]),
        (fs.WarmupStableDecay(warmup=3, stable=5, decay=2), [(0, "warmup"), (3, "stable"), (8, "decay")]),
        (fs.WarmupStableDecay(warmup=3, stable=0, decay=2), [(0, "warmup"), (3, "decay")]),
        (
            fs.Infinite(warmup=2, cosine=4, plateau=0.5, constant=3, cooldown=2, end=0.1),
            [(0, "warmup"), (2, "cosine"), (6, "plateau"), (9, "cooldown")],
        ),
        (fs.Constant().warmup(4).cooldown(at=20, steps=5), [(0, "warmup"), (4, ""), (20, "cooldown")]),
        (fs.OneCycle(steps=10, pct_start=0.25), [(0, "warmup"), (3, "")]),
        (fs.MultiStep(milestones=[3, 6], gamma=0.1).head(9), [(3, ""), (6, "")]),
        (COSINE.skip(4), [(0, "warmup"), (6, "")]),
        (COSINE.speed_up(2), [(0, "warmup"), (5, "")]),
        (COSINE * 0.1, [(0, "warmup"), (10, "")]),
        (fs.Cosine(steps=9), []),
        (fs.Constant(0.1, steps=5).then(fs.Cosine(steps=5)), [(5, "")]),  # a low start is no rise
    ],
    ids=str,
)
def test_the_phases_are_found(schedule, expected):
    assert phases(schedule) == expected


def test_only_the_phases_of_the_window_are_marked():
    assert phases(COSINE, 5, 10) == [(0, "warmup"), (10, "")]
    assert phases(COSINE, 10, 10) == []
    assert phases(COSINE, 0, 10) == [(0, "warmup")]


def test_too_many_phases_are_not_marked():
    steps = fs.MultiStep(milestones=range(1, 100), gamma=0.9).head(100)
    assert phases(steps) == []
    assert len(steps.plot().get_lines()) == 1


def test_phases_are_lines_with_names_and_the_warmup_is_a_shade():
    axes = fs.WarmupStableDecay(warmup=10, stable=60, decay=30).plot()
    assert words(axes) == ["warmup", "stable", "decay"]
    assert [line.get_xdata()[0] for line in axes.get_lines()[1:]] == [10, 70]
    assert len(axes.patches) == 1


def test_names_that_would_overlap_are_left_out():
    axes = fs.WarmupStableDecay(warmup=1, stable=1, decay=1000).plot()
    assert words(axes) == ["warmup"]


def test_the_last_update_of_each_cycle_is_marked():
    schedule = fs.CosineRestarts(first=10, multiplier=2, cycles=3)
    axes = schedule.plot()
    steps, values = curve(axes, 1)
    np.testing.assert_array_equal(steps, np.array(schedule.cycle_ends()) - 1)
    np.testing.assert_array_equal(values, schedule(steps))
    assert legend(axes) == ["a cycle ends: snapshot"]


@pytest.mark.parametrize("start", [0, 10, 15])
def test_only_the_cycles_of_the_window_are_marked(start):
    found = _outline.snapshots(fs.CosineRestarts(first=10), start, 20)
    assert found.tolist() == [end for end in range(10, 100, 10) if start < end <= start + 20]


def test_too_many_cycles_are_not_marked():
    assert len(_outline.snapshots(fs.Triangular(0.0, 1.0, up=1), 0, 2**53)) == 0


def test_marks_can_be_left_out():
    axes = fs.CosineRestarts(first=10, cycles=3).warmup(5).plot(marks=False)
    assert (len(axes.get_lines()), len(axes.patches), words(axes)) == (1, 0, [])


# ---- the user's axes ----


def test_it_draws_into_the_users_axes_and_returns_them():
    axes = fresh()
    assert COSINE.plot(ax=axes) is axes
    assert plot([COSINE], ax=axes) is axes
    assert fs.Plan([{"lr": 1.0}], COSINE).plot(name="lr", ax=axes) is axes


def test_what_the_user_has_set_stays():
    axes = fresh()
    axes.set(title="mine", xlabel="time", ylabel="rate", xlim=(3, 5), yscale="log", ylim=(0.25, 4.0))
    axes.xaxis.set_major_formatter("{x:.1f}")
    COSINE.plot(ax=axes)
    COSINE.plot(ax=axes, label="a name that is too long to be inside the picture")
    texts = axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), axes.get_xlim()
    assert texts == ("mine", "time", "rate", (3.0, 5.0))
    assert (axes.get_yscale(), axes.get_ylim()) == ("log", (0.25, 4.0))
    assert axes.xaxis.get_major_formatter()(2.0) == "2.0"


def test_curves_drawn_one_after_another_have_a_legend_and_colours_of_their_own():
    axes = COSINE.plot(label="first")
    fs.Linear(1.0, 0.0, steps=100).plot(ax=axes, label="second")
    assert legend(axes) == ["first", "second"]
    assert [line.get_color() for line in _plot._curves_in(axes)] == list(_plot.COLORS[:2])
    assert axes.get_title(loc="left") == ""  # it named the first one only


def test_a_later_curve_does_not_leave_the_first_outside_the_limits():
    axes = fs.Constant(5.0, steps=9).plot()
    fs.Constant(1.0, steps=9).plot(ax=axes)
    assert axes.get_ylim()[1] > 5.0


def test_the_title_fits_narrow_axes():
    axes = Figure(figsize=(3.0, 2.0)).subplots()
    COSINE.plot(ax=axes)
    assert axes.get_title(loc="left").startswith("Linear(")
    assert axes.get_title(loc="left").endswith("...")


# ---- several schedules ----


def test_several_schedules_are_drawn_with_their_names():
    axes = plot({"cosine": COSINE, "log": [0.5] * 30}, 60)
    assert legend(axes) == ["cosine", "log"]
    assert [len(curve(axes, i)[0]) for i in range(2)] == [60, 30]


def test_several_schedules_without_names_are_named_by_what_they_are():
    axes = plot([fs.Rex(steps=9), fs.Cosine(steps=9), fs.Rex(steps=9)])
    assert legend(axes) == ["Rex(1.0, 0.0, steps=9)", "Cosine(1.0, 0.0, steps=9)", "2: Rex(1.0, 0.0, steps=9)"]


def test_the_longest_schedule_that_ends_decides_the_length():
    axes = plot([fs.Rex(steps=9), fs.Cosine(steps=20), fs.Constant()])
    assert {len(curve(axes, i)[0]) for i in range(3)} == {20}


def test_one_schedule_may_be_passed_without_a_list():
    assert plot(COSINE).get_title(loc="left") == repr(COSINE)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0.1,), TypeError, "schedules must be schedules, got 0.1; pass a Schedule"),
        (("cosine",), TypeError, "schedules must be schedules, got 'cosine'"),
        (([COSINE, 0.1],), TypeError, r"schedules\[1\] must be a Schedule, got 0.1"),
        (({"a": 0.1},), TypeError, "a must be values, got 0.1"),
        (({},), ValueError, "schedules must be one at least, got none"),
        (([fs.Constant()],), ValueError, "steps must be given where no schedule ends"),
        ((COSINE, 0), ValueError, "steps must be >= 1, got 0"),
        ((COSINE, 10.0), TypeError, "steps must be an int, got 10.0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, error, message):
    with pytest.raises(error, match=f"plot: {message}"):
        plot(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ax": 3}, TypeError, "plot: ax must be a matplotlib Axes, got 3; pass one"),
        ({"log": "yes"}, TypeError, "plot: log must be True or False, got 'yes'"),
        ({"marks": 1}, TypeError, "plot: marks must be True or False, got 1"),
        ({"label": 1}, TypeError, "plot: label must be a string, got 1"),
        ({"start": -1}, ValueError, "plot: start must be >= 0, got -1"),
    ],
)
def test_wrong_options_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        COSINE.plot(**arguments)


def test_values_that_end_before_the_window_are_refused():
    with pytest.raises(ValueError, match="plot: log must have a value at start, got 2 for 5; start earlier"):
        plot({"log": [1.0, 0.5]}, 10, start=5)


# ---- plans ----


def test_a_plans_lines_are_its_table():
    plan = fs.Plan(groups(4), COSINE)
    axes = plan.plot(name="lr")
    table = plan.table(100, dtype=np.float64)["lr"]
    for g in range(4):
        np.testing.assert_array_equal(curve(axes, g)[1], table[:, g])
    assert legend(axes) == [f"group {g}" for g in range(4)]
    assert axes.get_ylabel() == "learning rate"


def test_groups_of_one_value_share_a_line():
    axes = fs.Plan(groups(500), COSINE).plot(name="weight_decay")
    assert [curve(axes, i)[1][0] for i in range(2)] == [0.0, 0.05]
    assert legend(axes) == ["groups 0, 2, 4, ...", "groups 1, 3, 5, ..."]


@pytest.mark.parametrize(("indices", "text"), [([3], "group 3"), ([0, 1, 2, 7], "groups 0-2, 7")])
def test_groups_in_words(indices, text):
    assert _outline.groups_in_words(np.array(indices)) == text


def test_up_to_a_dozen_groups_are_lines_and_more_a_heat_map():
    assert not fs.Plan(groups(12), COSINE).plot(name="lr").get_images()
    assert fs.Plan(groups(13), COSINE).plot(name="lr").get_images()


def test_a_heat_maps_cells_are_the_plans_table():
    plan = fs.Plan([{"lr": 1.0 - 0.01 * i} for i in range(20)], COSINE)
    cells = image(plan.plot(name="lr", log=False))
    np.testing.assert_array_equal(cells, plan.table(100, dtype=np.float64)["lr"].T)


def test_no_groups_peak_is_lost_in_a_heat_map():
    schedules = [at(1000 * i + 7, -2.0 if i % 2 else 2.0, 10**6) for i in range(400)]
    plan = fs.Plan([{"lr": schedule} for schedule in schedules])
    cells = image(plan.plot(name="lr"))
    assert cells.shape == (256, 512)
    rows = np.searchsorted(np.linspace(0, 400, 257).round(), np.arange(400), side="right") - 1
    edges = np.cumsum([0, *map(len, np.array_split(np.arange(10**6), 512))])
    for i, row in enumerate(rows):
        column = np.searchsorted(edges, 1000 * i + 7, side="right") - 1
        assert abs(cells[row, column]) == 2.0


def test_a_heat_map_has_a_bar_and_logarithmic_colours_where_they_read_better():
    near, far = (fs.Plan(groups(40, decay), COSINE).plot(name="lr") for decay in (0.99, 0.75))
    assert [type(axes.get_images()[0].norm).__name__ for axes in (near, far)] == ["Normalize", "LogNorm"]
    (_, bar) = far.figure.axes
    assert bar.get_ylabel() == "learning rate"


def test_groups_without_the_name_are_empty_in_the_heat_map_and_the_title_says_so():
    axes = fs.Plan([*groups(20), {"momentum": 0.9}], COSINE).plot(name="lr")
    assert np.isnan(image(axes)[20]).all()
    assert not np.isnan(image(axes)[:20]).any()
    assert axes.get_title(loc="left") == "lr of 21 groups, 1 curve; grey: groups without it"


def test_a_heat_map_of_constants_alone_needs_steps_only():
    plan = fs.Plan([{"lr": 0.1 * i} for i in range(20)])
    with pytest.raises(ValueError, match=r"Plan\.plot: steps must be given where nothing changes, got None"):
        plan.plot(name="lr")
    np.testing.assert_array_equal(image(plan.plot(10, "lr", log=False)).ravel(), plan.at(0)["lr"])


def test_a_negative_scale_turns_a_curve_over():
    axes = fs.Plan([{"lr": -2.0}], fs.Cosine(steps=10**5)).plot(name="lr")
    assert (curve(axes)[1].min(), curve(axes)[1][0]) == (-2.0, -2.0)


def test_without_a_name_every_hyperparameter_has_a_panel():
    figure = fs.Plan(groups(20), COSINE).plot()
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == ["lr of 20 groups, 1 curve", "weight_decay of 20 groups, constant"]


def test_panels_can_be_drawn_into_the_users_axes():
    figure = Figure()
    axes = figure.subplots(2, 1)
    assert fs.Plan(groups(3), COSINE).plot(ax=axes) is figure
    assert [panel.get_ylabel() for panel in axes] == ["learning rate", "weight decay"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "momentum"}, ValueError, "name must be a known one, got 'momentum'; pass 'lr' or 'weight_decay'"),
        ({"ax": 3}, TypeError, "ax must be a list of 2 Axes, got 3; pass one for each panel"),
        ({"ax": [3]}, ValueError, "ax must be 2 Axes, got 1; pass one for each panel"),
        ({"ax": [3, 4]}, TypeError, "ax must be a matplotlib Axes, got 3"),
    ],
)
def test_wrong_options_of_a_plan_are_refused(arguments, error, message):
    with pytest.raises(error, match=rf"Plan\.plot: {message}"):
        fs.Plan(groups(3), COSINE).plot(**arguments)


def test_a_plan_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Plan\.plot: some group must have a number or a schedule, got none"):
        fs.Plan([]).plot(10)


# ---- comparisons ----


def test_a_comparison_can_be_drawn_into_the_users_axes():
    figure = Figure()
    above, below = figure.subplots(2, 1)
    assert fs.compare(COSINE, fs.Rex(steps=100)).plot(ax=[above, below]) is figure
    assert (len(_plot._curves_in(above)), len(_plot._curves_in(below))) == (2, 1)


# ---- figures ----


def test_pictures_work_without_a_display_and_leave_pyplot_alone():
    code = (
        "import sys, fastsched as fs\n"
        "axes = fs.Cosine(steps=9).plot()\n"
        "axes.figure.savefig(__import__('io').BytesIO())\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "import matplotlib.pyplot as plt\n"
        "fs.Plan([{'lr': 0.1}], fs.Cosine(steps=9)).plot()\n"
        "print(plt.get_fignums())"
    )
    assert output(code, DISPLAY="", MPLBACKEND="agg") == "[]"


def test_a_picture_is_shown_by_notebooks():
    png = COSINE.plot()._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert fs.Plan(groups(3), COSINE).plot()._repr_png_().startswith(b"\x89PNG")


def test_a_picture_can_be_pickled():
    figure = pickle.loads(pickle.dumps(COSINE.plot().figure))
    np.testing.assert_array_equal(curve(figure.axes[0])[1], COSINE.table(100))


@pytest.mark.parametrize("call", ["fs.Cosine(steps=9).plot()", "fs.Plan([{'lr': fs.Cosine(steps=9)}]).plot()"])
def test_a_missing_matplotlib_says_what_to_do(call):
    who = "Plan.plot" if "Plan" in call else "plot"
    code = (
        "import sys, fastsched as fs\n"
        "sys.modules['matplotlib'] = None\n"
        f"try:\n    {call}\nexcept ImportError as error:\n    print(error)"
    )
    assert output(code) == f"{who}: needs matplotlib, which is not installed; pip install matplotlib"


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (0, "0"),
        (2500, "2,500"),
        (20_000, "20k"),
        (12_500, "12.5k"),
        (1_500_000, "1.5M"),
        (1_000_050, "1,000,050"),
        (5e15, "5e+15"),
    ],
)
def test_numbers_of_updates_are_short_where_that_is_exact(step, text):
    assert _plot.count_in_words(step) == text
