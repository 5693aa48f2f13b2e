"""Each recipe beside the rule of its source, written down here once more, and the numbers that the source states."""

import inspect
import math

import numpy as np
import pytest
import torch

import fastsched as fs
from fastsched import recipes

# The references below round in another order than the package, which stays within a few ulp of the exact value.
TOLERANCE = 1e-13


def tenths(t, each):
    """Goyal et al.: from the rate of a batch of 256 over five epochs, then a tenth at 30, 60 and 80; batch 8192."""
    if t < 5 * each:
        return (0.1 + (3.2 - 0.1) * t / (5 * each)) / 3.2
    return 0.1 ** sum(t >= epoch * each for epoch in (30, 60, 80))


def half_cosine(p, floor=0.0):
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * p))


def line_and_cosine(t, steps, warmup, floor=0.0):
    return t / warmup if t < warmup else half_cosine((t - warmup) / (steps - warmup), floor)


def from_linspace(t, steps, warmup, floor):
    """BEiT's list: an inclusive linspace, then a cosine."""
    return np.linspace(floor, 1.0, warmup)[t] if t < warmup else half_cosine((t - warmup) / (steps - warmup), floor)


def of_bert(t, steps):
    warmup = int(0.1 * steps)
    return t / warmup if t < warmup else (steps - t) / (steps - warmup)


def of_transformer(t, warmup, d_model):
    n = t + 1
    return d_model**-0.5 * min(n**-0.5, n * warmup**-1.5)


def of_wsd(t, steps):
    rise, fall = steps // 100, steps // 5
    if t < rise:
        return t / rise
    return 1.0 if t < steps - fall else 1.0 - math.sqrt((t - steps + fall) / fall)


def of_one_cycle(t, steps):
    """A line from a tenth up and one down over 45 % each, then down to a thousandth."""
    return np.interp(t / steps, [0.0, 0.45, 0.9, 1.0], [0.1, 1.0, 0.1, 0.001])


def of_sgdr(t, first):
    length = first
    while t >= length:
        t, length = t - length, 2 * length
    return half_cosine(t / length)


def of_snapshots(t, steps, cycles):
    length = math.ceil(steps / cycles)
    return half_cosine(t % length / length)


REFERENCES = {
    "imagenet_resnet": ({"steps_per_epoch": 156}, lambda t: tenths(t, 156), 90 * 156),
    "vit": ({"steps": 10_000}, lambda t: line_and_cosine(t, 10_000, 500), 10_000),
    "beit": ({"steps_per_epoch": 31}, lambda t: from_linspace(t, 3100, 620, 1e-6 / 4e-3), 3100),
    "mae": ({"steps_per_epoch": 31}, lambda t: line_and_cosine(t, 3100, 155, 1e-6 / 2e-3), 3100),
    "super_convergence": ({"steps": 10_000}, lambda t: of_one_cycle(t, 10_000), 10_000),
    "sgdr": ({"first": 10, "cycles": 6}, lambda t: of_sgdr(t, 10), 630),
    "snapshots": ({"steps": 203, "cycles": 5}, lambda t: of_snapshots(t, 203, 5), 203),
    "bert": ({"steps": 1003}, lambda t: of_bert(t, 1003), 1003),
    "noam": ({"warmup": 400, "d_model": 512}, lambda t: of_transformer(t, 400, 512), 10_000),
    "gpt": ({"steps": 20_000}, lambda t: line_and_cosine(t, 20_000, 2000, 0.1), 20_000),
    "wsd": ({"steps": 9_999}, lambda t: of_wsd(t, 9_999), 9_999),
}


def test_every_recipe_has_a_reference():
    assert sorted(REFERENCES) == sorted(recipes.names())


@pytest.mark.parametrize("name", REFERENCES)
def test_a_recipe_is_the_rule_of_its_source_at_every_step(name):
    arguments, reference, steps = REFERENCES[name]
    expected = [reference(t) for t in range(steps)]
    np.testing.assert_allclose(recipes.build(name, **arguments).table(steps), expected, rtol=0.0, atol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "noam"])
def test_a_recipe_has_peak_1_and_ends_with_its_training(name):
    arguments, _, steps = REFERENCES[name]
    schedule = recipes.build(name, **arguments)
    assert schedule.table(steps).max() == 1.0
    if name == "snapshots":  # whole cycles: the last one is cut by the training's end
        steps = 5 * 41
    assert schedule.steps == steps


def test_goyals_learning_rates_are_those_of_the_paper():
    """From 0.1 to 3.2 within 5 epochs of 8192 images each update, then 0.32, 0.032 and 0.0032."""
    each = 1_281_167 // 8192
    lrs = [3.2 * recipes.imagenet_resnet(each)(epoch * each) for epoch in (0, 5, 29, 30, 60, 80)]
    assert lrs == pytest.approx([0.1, 3.2, 3.2, 0.32, 0.032, 0.0032], rel=1e-12)


def test_a_batch_of_256_needs_no_warmup():
    schedule = recipes.imagenet_resnet(5004, batch_size=256)
    assert schedule(0) == schedule(5 * 5004) == 1.0


def test_the_transformers_peak_is_that_of_the_papers_base_model():
    assert recipes.noam(4000, d_model=512)(3999) == pytest.approx(6.987712429686843e-4, rel=1e-12)
    assert recipes.about("noam").lr * recipes.noam(4000)(3999) == pytest.approx(6.987712429686843e-4, rel=1e-12)


def test_noam_of_one_update_of_warmup_only_falls():
    assert recipes.noam(1).table(5) == pytest.approx([n**-0.5 for n in range(1, 6)], rel=1e-14)


def test_snapshots_are_taken_where_the_papers_cycles_end():
    assert recipes.snapshots(300 * 390, cycles=6).cycle_ends() == [50 * 390 * i for i in range(1, 7)]


def test_the_momentum_of_super_convergence_is_lowest_where_the_rate_is_highest():
    schedule = recipes.super_convergence(1000)
    momentum = schedule.momentum(0.85, 0.95)
    assert schedule.table(1001).argmax() == momentum.table(1001).argmin() == 450
    assert momentum(0) == momentum(900) == momentum(1000) == 0.95


@pytest.mark.parametrize("name", ["vit", "bert", "gpt", "wsd"])
def test_a_recipe_without_warmup_begins_at_its_peak(name):
    assert recipes.build(name, steps=5000, warmup=0)(0) == 1.0


@pytest.mark.parametrize("name", ["beit", "mae", "imagenet_resnet"])
def test_a_recipe_of_epochs_without_warmup_begins_at_its_peak(name):
    assert recipes.build(name, steps_per_epoch=50, warmup_epochs=0)(0) == 1.0


@pytest.mark.parametrize("name", recipes.names())
def test_the_settings_of_a_recipe_make_its_optimizer(name):
    arguments, _, _ = REFERENCES[name]
    about = recipes.about(name)
    lr = 1e-3 if about.lr is None else about.lr
    parameter = torch.nn.Parameter(torch.ones(3))
    schedule = recipes.build(name, **arguments)
    optimizer = getattr(fs.optim, about.optimizer)([parameter], lr=lr, schedule=schedule, **about.settings)
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == lr * schedule(1)


@pytest.mark.parametrize("name", ["vit", "beit", "mae", "bert"])
def test_the_layerwise_settings_of_a_recipe_make_groups(name):
    block = [torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)) for _ in range(3)]
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Sequential(*block), torch.nn.Linear(4, 3))
    about = recipes.about(name)
    groups = fs.layerwise(model, about.lr, **about.layerwise)
    lowest = min(group["lr"] for group in groups)
    assert lowest == pytest.approx(about.lr * about.layerwise["decay"] ** 4, rel=1e-12)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_when_to_use_it_and_where_it_is_from(name):
    text = inspect.getdoc(getattr(recipes, name))
    for word in ("When:", "Errors:", "Source:", ">>>"):
        assert word in text
    assert recipes.about(name).name == name
    assert recipes.about(name).source


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recipes.vit(500), "vit: warmup must be shorter than all 500 updates, got 500; pass a shorter one"),
        (lambda: recipes.gpt(0), "gpt: steps must be >= 1, got 0; pass how many updates"),
        (lambda: recipes.bert(10, warmup=-1), "bert: warmup must be >= 0, got -1; leave warmup out with 0"),
        (lambda: recipes.mae(10, warmup_epochs=100), "mae: warmup must be shorter than all 100 epochs, got 100"),
        (lambda: recipes.beit(1, warmup_epochs=1), "beit: warmup must take no update or at least 2, got 1"),
        (lambda: recipes.wsd(10, warmup=6, decay=5), "wsd: warmup and decay must fit into 10 steps, got 6 and 5"),
        (lambda: recipes.snapshots(3), "snapshots: steps must be >= cycles, got 3 for 5; pass fewer cycles"),
        (lambda: recipes.noam(0), "noam: warmup must be >= 1, got 0"),
        (lambda: recipes.noam(10, d_model=0), "noam: d_model must be >= 1, got 0"),
        (lambda: recipes.super_convergence(10, cycle=1.5), "super_convergence: cycle must be <= 1, got 1.5"),
        (
            lambda: recipes.imagenet_resnet(10, milestones=(3, 60)),
            "imagenet_resnet: milestones must not be before the end of the warmup, got 3 for 5 epochs of warmup",
        ),
        (lambda: recipes.about("gtp"), "recipes: name must be a known one, got 'gtp'; did you mean gpt?"),
        (lambda: recipes.build("x", steps=1), "recipes: name must be a known one, got 'x'; pass one of imagenet"),
    ],
)
def test_a_wrong_value_is_refused_with_what_to_do(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        call()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recipes.bert(1e3), "bert: steps must be an int, got 1000.0; pass 1000"),
        (lambda: recipes.noam(True), "noam: warmup must be an int, got True"),
        (lambda: recipes.about(3), "recipes: name must be a string, got 3"),
    ],
)
def test_a_wrong_type_is_refused_with_what_to_do(call, message):
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value).startswith(message)


def test_the_settings_cannot_be_changed():
    with pytest.raises(TypeError):
        recipes.about("gpt").settings["eps"] = 1.0
