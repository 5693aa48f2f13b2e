"""Clipping, unscaling, skipping and zeroing: what a step does with gradients before and after it uses them."""

import copy
import functools
import math

import pytest
import torch
from optimizers import (
    HALVES,
    RULES,
    SHAPES,
    bits,
    chosen,
    everything,
    give_grads,
    machine,
    params_of,
    same_bits,
    weights,
)

import fastsched as fs

NORMS = [1, 2, math.inf]
MAKERS = [("AdamW", {}), ("Adam", {}), ("SGD", {"lr": 0.1, "momentum": 0.9}), ("SGD", {"lr": 0.1}), ("Lion", {})]


def name(case):
    return " ".join([case[0], *case[1]])


def norm_of(params, norm_type=2.0):
    """In float64, over all gradients as one vector."""
    return torch.linalg.vector_norm(torch.cat([p.grad.double().flatten() for p in params]), norm_type).item()


def snapshot(opt):
    group_values = [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]
    return everything(opt), [sorted(opt.state.get(p, {})) for g in opt.param_groups for p in g["params"]], group_values


def assert_untouched(opt, before):
    now = snapshot(opt)
    assert same_bits(now[0], before[0])
    assert now[1:] == before[1:]


# ---- by norm


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("case", [("AdamW", {"eps": 1.0}), ("SGD", {"lr": 0.1, "momentum": 0.9})], ids=name)
def test_weights_are_those_of_torchs_clip_and_torchs_step(case, norm_type, max_norm):
    rule, options = case
    shapes = [shape for shape in SHAPES if 0 not in shape]  # torch has no largest element of an empty tensor
    ours, theirs = params_of(shapes), params_of(shapes)
    a = chosen(rule, ours, max_grad_norm=max_norm, norm_type=norm_type, **options)
    b = getattr(torch.optim, rule)(theirs, **options)
    for t in range(5):
        give_grads(ours, theirs, seed=t)
        torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
        a.step()
        b.step()
    # 5 updates of a few roundings; torch's own norm is a float32 sum of 1,000 values, here a little of the update
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=32 * 2**-24, atol=32 * 2**-24)


@pytest.mark.parametrize("norm_type", NORMS)
def test_the_coefficient_is_max_norm_over_norm_plus_1e_6(norm_type):
    params = params_of([(300,), (7, 11)])
    give_grads(params, seed=0)
    with torch.no_grad():
        for p in params:
            p.zero_()
    expected = [-p.grad.double() * (0.25 / (norm_of(params, norm_type) + 1e-6)) for p in params]
    fs.optim.SGD(params, lr=1.0, max_grad_norm=0.25, norm_type=norm_type).step()
    # the float32 roundings of the norm, the coefficient and the product
    torch.testing.assert_close([p.double() for p in weights(params)], expected, rtol=4 * 2**-24, atol=0)


def test_gradients_below_the_limit_are_used_to_the_bit():
    a, b = params_of(SHAPES), params_of(SHAPES)
    give_grads(a, b, seed=0)
    fs.optim.AdamW(a, max_grad_norm=2 * norm_of(a)).step()
    fs.optim.AdamW(b).step()
    assert same_bits(a, b)


def test_gradients_that_are_all_zero_are_an_update_like_any_other():
    params = params_of(SHAPES)
    for p in params:
        p.grad = torch.zeros_like(p)
    opt = fs.optim.AdamW(params, max_grad_norm=1.0)
    opt.step()
    assert (opt.position, opt.skipped, opt.grad_norm) == (0 + 1, 0, 0.0)


@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
def test_grad_norm_is_the_norm_before_clipping(norm_type, dtype):
    params = params_of(SHAPES, dtype=dtype)
    give_grads(params, seed=0)
    opt = fs.optim.SGD(params, max_grad_norm=0.125, norm_type=norm_type)
    assert opt.grad_norm is None
    opt.step()
    assert type(opt.grad_norm) is float
    # sums of 1,000 float32 values of one sign, each rounded once
    assert opt.grad_norm == pytest.approx(norm_of(params, norm_type), rel=4 * 2**-24)


def test_the_norm_of_a_complex_gradient_is_that_of_its_real_and_imaginary_parts():
    params = params_of([(50,)], dtype=torch.complex64)
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params, max_grad_norm=1.0)
    opt.step()
    exact = torch.linalg.vector_norm(torch.view_as_real(params[0].grad).double()).item()
    assert opt.grad_norm == pytest.approx(exact, rel=4 * 2**-24)


def test_the_norm_spans_gradients_of_several_dtypes():
    params = [params_of([(40,)], dtype=dtype)[0] for dtype in (torch.float32, torch.float64, *HALVES)]
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params, max_grad_norm=1.0)
    opt.step()
    assert opt.grad_norm == pytest.approx(norm_of(params), rel=4 * 2**-24)


def test_float16_gradients_whose_squares_overflow_float16_have_a_finite_norm():
    params = params_of([(40,)], dtype=torch.float16)
    params[0].grad = torch.full((40,), 6e4, dtype=torch.float16)
    opt = fs.optim.SGD(params, max_grad_norm=1.0)
    opt.step()
    assert opt.grad_norm == pytest.approx(norm_of(params), rel=4 * 2**-24)
    assert opt.skipped == 0


def test_grad_norm_is_none_where_no_norm_is_asked_for():
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params)
    opt.step()
    assert opt.grad_norm is None


def test_an_expanded_gradient_counts_every_element():
    a, b = params_of([(6, 5)]), params_of([(6, 5)])
    a[0].grad = torch.arange(5.0).expand(6, 5)
    b[0].grad = torch.arange(5.0).expand(6, 5).contiguous()
    first, second = fs.optim.SGD(a, lr=0.5, max_grad_norm=1.0), fs.optim.SGD(b, lr=0.5, max_grad_norm=1.0)
    first.step()
    second.step()
    assert first.grad_norm == pytest.approx(math.sqrt(6 * 30), rel=2 * 2**-24)
    assert same_bits(a, b)


@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x[1::3],
        lambda x: x.unfold(0, 2, 2),
        lambda x: x.reshape(4, 2, 3, 2).permute(3, 1, 0, 2),
    ],
    ids=["transposed", "gaps", "rows", "unfolded", "permuted"],
)
def test_the_norm_of_a_strided_gradient_is_that_of_its_elements(change, norm_type):
    grad = change(torch.arange(48.0).reshape(8, 6))
    p = torch.nn.Parameter(torch.zeros_like(grad))
    p.grad = grad
    opt = fs.optim.SGD([p], max_grad_norm=1.0, norm_type=norm_type)
    opt.step()
    assert opt.grad_norm == pytest.approx(norm_of([p], norm_type), rel=4 * 2**-24)


def test_parameters_without_gradient_do_not_count():
    params = params_of([(5,), (5,)])
    params[0].grad = torch.full((5,), 2.0)
    opt = fs.optim.SGD(params, max_grad_norm=1.0, norm_type=1)
    opt.step()
    assert opt.grad_norm == 10.0


def test_a_step_without_any_gradient_is_no_update_and_no_skip():
    opt = fs.optim.SGD(params_of([(5,)]), max_grad_norm=1.0)
    opt.step()
    assert (opt.position, opt.skipped) == (0, 0)


@functools.cache
def normed(isa=None, threads=1, layout="one", norm_type=2.0):
    params = params_of([(1000,), (3,), (150_001,), (64, 64), (0,), ()])
    give_grads(params, seed=3)
    parts = {
        "one": [params],
        "two": [params[:3], params[3:]],
        "six": [[p] for p in params],
        "six, last first": [[p] for p in reversed(params)],
        "one, last first": [params[::-1]],
    }[layout]
    opt = fs.optim.SGD([{"params": part} for part in parts], lr=0.0, max_grad_norm=1.0, norm_type=norm_type)
    with machine(isa, threads):
        opt.step()
    return opt.grad_norm


@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("isa", [isa for isa in fs._core.isas() if isa != "baseline"])
def test_the_norm_has_the_same_bits_with_every_instruction_set(isa, norm_type):
    assert normed(isa, norm_type=norm_type) == normed("baseline", norm_type=norm_type)


@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_the_norm_has_the_same_bits_with_any_number_of_threads(threads, norm_type):
    assert normed(threads=threads, norm_type=norm_type) == normed(norm_type=norm_type)


@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("layout", ["two", "six", "six, last first", "one, last first"])
def test_the_norm_has_the_same_bits_in_any_grouping_and_order(layout, norm_type):
    assert normed(layout=layout, norm_type=norm_type) == normed(norm_type=norm_type)


# ---- a norm from outside


@pytest.mark.parametrize("given", [8.0, 8, torch.tensor(8.0), torch.tensor([[8.0]], dtype=torch.float64)], ids=repr)
def test_a_norm_that_is_given_is_used_instead_of_the_own(given):
    params = params_of([(5,)])
    with torch.no_grad():
        params[0].zero_()
    params[0].grad = torch.ones(5)
    opt = fs.optim.SGD(params, lr=1.0, max_grad_norm=2.0)
    opt.step(grad_norm=given)
    torch.testing.assert_close(params[0].detach(), torch.full((5,), -2 / (8 + 1e-6)), rtol=4 * 2**-24, atol=0)
    assert opt.grad_norm == 8.0


def test_a_given_norm_serves_one_step():
    params = params_of([(4,)])
    params[0].grad = torch.ones(4)
    opt = fs.optim.SGD(params, max_grad_norm=2.0)
    opt.step(grad_norm=8.0)
    opt.step()
    assert opt.grad_norm == 2.0


def test_a_given_norm_works_with_a_closure():
    params = params_of([(4,)])
    params[0].grad = torch.ones(4)
    opt = fs.optim.SGD(params, max_grad_norm=2.0)
    assert opt.step(lambda: 3.0, grad_norm=8.0) == 3.0
    assert opt.grad_norm == 8.0


def test_a_given_norm_reaches_the_step_through_hooks():
    params = params_of([(4,)])
    params[0].grad = torch.ones(4)
    opt = fs.optim.SGD(params, max_grad_norm=2.0)
    opt.register_step_post_hook(lambda *_: None)
    opt.step(grad_norm=8.0)
    assert opt.grad_norm == 8.0


@pytest.mark.parametrize("given", [math.inf, math.nan, torch.tensor(math.nan)], ids=repr)
@pytest.mark.host
def test_a_given_norm_that_is_not_finite_skips_the_update(given):
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params, max_grad_norm=2.0)
    before = snapshot(opt)
    opt.step(grad_norm=given)
    assert_untouched(opt, before)
    assert (opt.skipped, opt.position) == (1, 0)


def test_a_given_norm_without_max_grad_norm_is_refused():
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params)
    with pytest.raises(ValueError, match="set max_grad_norm"):
        opt.step(grad_norm=1.0)
    assert opt.position == 0


@pytest.mark.parametrize("given", ["8", torch.ones(2), [1.0], -1.0], ids=repr)
def test_a_given_norm_that_is_none_is_refused(given):
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params, max_grad_norm=1.0)
    before = snapshot(opt)
    with pytest.raises((TypeError, ValueError), match="grad_norm must be"):
        opt.step(grad_norm=given)
    assert_untouched(opt, before)


# ---- by value


@pytest.mark.parametrize("case", MAKERS, ids=name)
def test_clamped_gradients_give_the_bits_of_gradients_clamped_by_hand(case):
    rule, options = case
    a, b = params_of(SHAPES), params_of(SHAPES)
    first, second = chosen(rule, a, max_grad_value=0.5, **options), chosen(rule, b, **options)
    for t in range(3):
        give_grads(a, b, seed=t)
        torch.nn.utils.clip_grad_value_(b, 0.5)
        first.step()
        second.step()
    assert same_bits(everything(first), everything(second))


def test_an_infinite_gradient_is_clamped_and_nan_stays_nan():
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.tensor([math.inf, -math.inf, math.nan])
    opt = fs.optim.SGD([p], lr=1.0, max_grad_value=0.5)
    opt.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.5, 0.5, math.nan]), rtol=0, atol=0, equal_nan=True)
    assert opt.skipped == 0


# ---- errors


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm must be"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be"),
        ({"max_grad_norm": math.nan}, "max_grad_norm must be"),
        ({"max_grad_norm": "1"}, "max_grad_norm must be"),
        ({"max_grad_norm": True}, "max_grad_norm must be"),
        ({"max_grad_value": 0.0}, "max_grad_value must be"),
        ({"max_grad_value": -0.5}, "max_grad_value must be"),
        ({"max_grad_norm": 1.0, "norm_type": 3}, "norm_type must be"),
        ({"max_grad_norm": 1.0, "norm_type": 0}, "norm_type must be"),
        ({"max_grad_norm": 1.0, "norm_type": "2"}, "norm_type must be"),
        ({"max_grad_norm": 1.0, "max_grad_value": 1.0}, "max_grad_value"),
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", list(RULES))
def test_limits_that_are_none_are_refused_at_construction(rule, options, match):
    with pytest.raises((TypeError, ValueError), match=f"{rule}: .*{match}"):
        chosen(rule, params_of([(3,)]), **options)


# ---- what a skipped update leaves


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("case", MAKERS, ids=name)
def test_a_norm_that_is_not_finite_skips_the_update(case, norm_type, bad):
    rule, options = case
    params = params_of(SHAPES)
    opt = chosen(
        rule, params, max_grad_norm=1.0, norm_type=norm_type, schedule=fs.Cosine(steps=9), ema_decay=0.5,
        ema_buffers=[torch.ones(3)], **options,
    )  # fmt: skip
    give_grads(params, seed=0)
    opt.step()
    give_grads(params, seed=1)
    params[-1].grad[500] = bad
    before = snapshot(opt)
    opt.step()
    assert_untouched(opt, before)
    assert (opt.skipped, opt.position) == (1, 1)


@pytest.mark.host
def test_a_skipped_first_update_creates_no_state():
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    params[2].grad[1] = math.inf
    opt = fs.optim.AdamW(params, max_grad_norm=1.0, ema_decay=0.5)
    opt.step()
    assert not any(opt.state.get(p) for p in params)
    assert opt.state_dict()["state"] == {}


def test_grad_norm_tells_why_an_update_was_skipped():
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    params[2].grad[1] = math.inf
    opt = fs.optim.AdamW(params, max_grad_norm=1.0)
    opt.step()
    assert opt.grad_norm == math.inf


def test_the_updates_after_a_skipped_one_are_those_of_a_run_without_it():
    a, b = params_of(SHAPES), params_of(SHAPES)
    first, second = (
        fs.optim.AdamW(x, lr=0.1, schedule=fs.Cosine(steps=9), max_grad_norm=1.0, ema_decay=0.5) for x in (a, b)
    )
    for t in range(4):
        give_grads(a, b, seed=t)
        if t == 2:
            a[2].grad[1] = math.nan
            first.step()
            give_grads(a, seed=t)
        first.step()
        second.step()
    assert same_bits(everything(first), everything(second))
    assert first.skipped == 1


def test_a_value_written_into_the_group_waits_for_the_update_after_a_skipped_one():
    params = params_of([(3,)])
    opt = fs.optim.SGD(params, lr=0.1, schedule=fs.Cosine(steps=9), max_grad_norm=1e9)
    opt.param_groups[0]["lr"] = 0.75
    params[0].grad = torch.full((3,), math.nan)
    opt.step()
    assert opt.param_groups[0]["lr"] == 0.75


def test_without_clip_or_amp_a_gradient_that_is_not_finite_is_used_as_torch_does():
    params = params_of([(3,)])
    params[0].grad = torch.tensor([1.0, math.nan, 1.0])
    opt = fs.optim.AdamW(params)
    opt.step()
    assert params[0].isnan().tolist() == [False, True, False]
    assert (opt.skipped, opt.position) == (0, 1)


def test_skipped_counts_every_skipped_update():
    params = params_of([(3,)])
    opt = fs.optim.AdamW(params, max_grad_norm=1.0)
    for bad in (True, False, True, True):
        params[0].grad = torch.full((3,), math.nan if bad else 1.0)
        opt.step()
    assert (opt.skipped, opt.position) == (3, 1)
    assert type(opt.skipped) is int


# ---- gradients stay as they are, or become zero


LIMITS = [{}, {"max_grad_norm": 0.125}, {"max_grad_value": 0.125}, {"amp": True}]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_gradients_are_never_changed_in_place(limits, dtype):
    params = params_of(SHAPES, dtype=dtype)
    give_grads(params, seed=0)
    before = [p.grad.clone() for p in params]
    opt = fs.optim.AdamW(params, maximize=True, weight_decay=0.5, weight_decay_mode="l2", **limits)
    if "amp" in limits:
        opt.grad_scale, opt.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    opt.step()
    assert same_bits([p.grad for p in params], before)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_zero_grads_zeroes_every_gradient_in_place(limits):
    params = params_of([*SHAPES, (3,)])
    give_grads(params, seed=0)
    params[-1].grad = None
    held = [p.grad for p in params]
    fs.optim.AdamW(params, zero_grads=True, **limits).step()
    assert all(p.grad is grad for p, grad in zip(params, held, strict=True))
    assert all(not grad.any() for grad in held[:-1])


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("case", MAKERS, ids=name)
def test_zeroing_changes_no_bit_of_the_update(case, limits):
    rule, options = case
    a, b = params_of(SHAPES), params_of(SHAPES)
    first, second = (chosen(rule, x, zero_grads=x is a, **limits, **options) for x in (a, b))
    for t in range(3):
        give_grads(a, b, seed=t)
        first.step()
        second.step()
    assert same_bits(everything(first), everything(second))


def test_a_skipped_update_zeroes_its_gradients():
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    params[2].grad[1] = math.nan
    opt = fs.optim.AdamW(params, max_grad_norm=1.0, zero_grads=True)
    opt.step()
    assert opt.skipped == 1
    assert not any(p.grad.any() for p in params)


def test_a_skipped_update_leaves_its_gradients_without_zero_grads():
    params = params_of([(3,)])
    params[0].grad = torch.tensor([1.0, math.inf, 2.0])
    fs.optim.AdamW(params, max_grad_norm=1.0).step()
    assert params[0].grad.tolist() == [1.0, math.inf, 2.0]


def test_a_gradient_with_gaps_is_zeroed_and_its_gaps_are_not():
    p = torch.nn.Parameter(torch.ones(4, 3))
    around = torch.ones(4, 6)
    p.grad = around[:, ::2]
    fs.optim.SGD([p], zero_grads=True).step()
    assert not around[:, ::2].any()
    assert around[:, 1::2].all()


@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_parameters_that_share_one_gradient_all_use_it_before_it_is_zeroed(size, limits):
    a, b = params_of([(size,)] * 3), params_of([(size,)] * 3)
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(size, generator=generator)
    for p, q in zip(a, b, strict=True):
        p.grad, q.grad = shared, shared.clone()
    with machine(threads=2):
        for params, zero in ((a, True), (b, False)):
            fs.optim.SGD(params, lr=0.1, zero_grads=zero, **limits).step()
    assert same_bits(a, b)
    assert not shared.any()


def test_gradients_that_overlap_in_one_storage_are_all_used_before_they_are_zeroed():
    a, b = params_of([(600,)] * 2), params_of([(600,)] * 2)
    storage = torch.arange(1000.0)
    for i in range(2):
        a[i].grad = storage[400 * i : 400 * i + 600]
        b[i].grad = a[i].grad.clone()
    for params, zero in ((a, True), (b, False)):
        fs.optim.SGD(params, lr=0.1, max_grad_norm=1.0, zero_grads=zero).step()
    assert same_bits(a, b)
    assert not storage.any()


def test_an_expanded_gradient_is_used_whole_before_it_is_zeroed():
    a, b = params_of([(500, 400)]), params_of([(500, 400)])
    a[0].grad = torch.arange(400.0).expand(500, 400)
    b[0].grad = a[0].grad.contiguous()
    with machine(threads=2):
        for params, zero in ((a, True), (b, False)):
            fs.optim.SGD(params, lr=0.1, zero_grads=zero).step()
    assert same_bits(a, b)
    assert not a[0].grad.any()


@pytest.mark.parametrize(
    "change",
    [lambda x: x.t(), lambda x: x[:, ::2], lambda x: x[:, :1].expand(8, 5)],
    ids=["transposed", "gaps", "expanded"],
)
@pytest.mark.parametrize("dtype", [torch.float64, *HALVES, torch.complex64])
def test_zeroing_a_strided_gradient_of_any_dtype_changes_no_bit_of_the_update(dtype, change):
    grad = change(torch.arange(1.0, 49.0).reshape(8, 6).to(dtype))
    a, b = params_of([grad.shape], dtype=dtype), params_of([grad.shape], dtype=dtype)
    a[0].grad, b[0].grad = grad, grad.clone(memory_format=torch.contiguous_format)
    for params, zero in ((a, True), (b, False)):
        fs.optim.SGD(params, lr=0.1, zero_grads=zero).step()
    assert same_bits(a, b)
    assert not grad.any()


def test_a_negated_view_as_gradient_is_zeroed():
    p = torch.nn.Parameter(torch.zeros(5))
    p.grad = torch._neg_view(torch.ones(5))
    fs.optim.SGD([p], lr=1.0, zero_grads=True).step()
    assert p.tolist() == [1.0] * 5
    assert not p.grad.any()


# ---- GradScaler


def scaled_run(make, factors, *, init_scale=1024.0, unscale=False):
    """A linear model under a GradScaler; a factor that is not finite spoils the gradients of its step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    opt = make(list(model.parameters()))
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=2)
    for t, factor in enumerate(factors):
        opt.zero_grad()
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(t))
        scaler.scale(model(inputs).square().mean() * factor).backward()
        if unscale:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
    return list(model.parameters()), opt, scaler


FACTORS = [1.0, 1.0, math.inf, 1.0, math.nan, 1.0, 1.0]


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize(
    "case", [("AdamW", {"eps": 1e-3}), ("Adam", {"eps": 1e-3}), ("SGD", {"lr": 0.1, "momentum": 0.9})], ids=name
)
def test_under_a_gradscaler_weights_and_scale_are_those_of_torchs_fused_optimizer(case, unscale):
    rule, options = case
    ours, a, scaler = scaled_run(lambda p: chosen(rule, p, amp=True, **options), FACTORS, unscale=unscale)
    theirs, _, other = scaled_run(
        lambda p: getattr(torch.optim, rule)(p, fused=True, **options), FACTORS, unscale=unscale
    )
    # 5 updates, a few roundings each, and eps damps those of Adam's quotient
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=32 * 2**-24, atol=32 * 2**-24)
    assert scaler.get_scale() == other.get_scale()
    assert (a.position, a.skipped) == (5, 2)


@pytest.mark.parametrize("scale", [1.0, 2.0**16, 2.0**-10])
@pytest.mark.parametrize("case", MAKERS, ids=name)
def test_a_power_of_two_as_scale_changes_no_bit(case, scale):
    rule, options = case
    scaled, _, _ = scaled_run(lambda p: chosen(rule, p, amp=True, **options), [1.0] * 3, init_scale=scale)
    plain, _, _ = scaled_run(lambda p: chosen(rule, p, **options), [1.0] * 3, init_scale=1.0)
    assert same_bits(scaled, plain)


def test_without_amp_the_scaler_unscales_and_skips_by_itself():
    ours, opt, _ = scaled_run(lambda p: fs.optim.AdamW(p), FACTORS)
    assert not getattr(opt, "_step_supports_amp_scaling", False)
    theirs, _, _ = scaled_run(lambda p: fs.optim.AdamW(p, amp=True), FACTORS)
    assert same_bits(ours, theirs)
    assert opt.position == 5


def test_the_scaler_leaves_the_gradients_of_an_amp_optimizer_scaled():
    params = params_of([(3,)])
    opt = fs.optim.SGD(params, amp=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(params[0].sum()).backward()
    scaler.step(opt)
    assert params[0].grad.tolist() == [8.0] * 3


def test_clipping_and_grad_norm_go_by_unscaled_gradients():
    limits = {"max_grad_norm": 0.125}
    scaled, a, _ = scaled_run(lambda p: fs.optim.SGD(p, lr=0.1, amp=True, **limits), [1.0] * 3, init_scale=256.0)
    plain, b, _ = scaled_run(lambda p: fs.optim.SGD(p, lr=0.1, **limits), [1.0] * 3, init_scale=1.0)
    assert a.grad_norm == b.grad_norm
    assert a.grad_norm > 0.125
    assert same_bits(scaled, plain)


def test_clamping_goes_by_unscaled_gradients():
    limits = {"max_grad_value": 2.0**-5}
    scaled, _, _ = scaled_run(lambda p: fs.optim.SGD(p, lr=0.1, amp=True, **limits), [1.0] * 3, init_scale=256.0)
    plain, _, _ = scaled_run(lambda p: fs.optim.SGD(p, lr=0.1, **limits), [1.0] * 3, init_scale=1.0)
    assert same_bits(scaled, plain)


def test_an_infinite_gradient_is_skipped_under_a_scaler_even_where_it_would_be_clamped():
    _, opt, scaler = scaled_run(lambda p: fs.optim.SGD(p, amp=True, max_grad_value=1.0), [1.0, math.inf])
    assert (opt.skipped, opt.position) == (1, 1)
    assert scaler.get_scale() == 512.0


def test_a_given_norm_is_taken_as_unscaled():
    params = params_of([(4,)])
    with torch.no_grad():
        params[0].zero_()
    opt = fs.optim.SGD(params, lr=1.0, max_grad_norm=1.0, amp=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    scaler.scale(params[0].sum()).backward()
    scaler.step(opt, grad_norm=4.0)
    torch.testing.assert_close(params[0].detach(), torch.full((4,), -1 / (4 + 1e-6)), rtol=4 * 2**-24, atol=0)


@pytest.mark.parametrize("limits", [{}, {"max_grad_norm": 1.0}, {"zero_grads": True}], ids=str)
def test_found_inf_skips_the_update_and_changes_nothing(limits):
    params = params_of(SHAPES)
    opt = fs.optim.AdamW(params, amp=True, schedule=fs.Cosine(steps=9), ema_decay=0.5, **limits)
    give_grads(params, seed=0)
    opt.step()
    give_grads(params, seed=1)
    before = snapshot(opt)
    opt.grad_scale, opt.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    opt.step()
    assert_untouched(opt, before)
    assert (opt.skipped, opt.position) == (1, 1)
    assert any(p.grad.any() for p in params) == ("zero_grads" not in limits)


@pytest.mark.host
def test_found_inf_at_the_first_update_creates_no_state():
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params, amp=True, ema_decay=0.5)
    opt.grad_scale, opt.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    opt.step()
    assert opt.state_dict()["state"] == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.host
def test_with_amp_a_gradient_that_is_not_finite_skips_even_where_no_scaler_looked(bad):
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    params[2].grad[1] = bad
    opt = fs.optim.AdamW(params, amp=True)
    before = snapshot(opt)
    opt.step()
    assert_untouched(opt, before)
    assert opt.skipped == 1


def test_the_scale_of_an_earlier_step_is_forgotten():
    params = params_of([(3,)])
    with torch.no_grad():
        params[0].zero_()
    opt = fs.optim.SGD(params, lr=1.0, amp=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(params[0].sum()).backward()
    scaler.step(opt)
    params[0].grad = torch.ones(3)
    opt.step()
    assert params[0].tolist() == [-2.0] * 3


def test_found_inf_of_an_earlier_step_is_forgotten():
    params = params_of([(3,)])
    opt = fs.optim.SGD(params, amp=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(params[0].sum() * math.inf).backward()
    scaler.step(opt)
    params[0].grad = torch.ones(3)
    opt.step()
    assert (opt.skipped, opt.position) == (1, 1)


def test_without_amp_a_grad_scale_that_lies_about_is_not_used():
    a, b = params_of([(3,)]), params_of([(3,)])
    give_grads(a, b, seed=0)
    first, second = fs.optim.SGD(a, lr=1.0), fs.optim.SGD(b, lr=1.0)
    first.grad_scale, first.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    first.step()
    second.step()
    assert same_bits(a, b)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_gradients_are_unscaled_without_overflow_or_loss(dtype):
    """In float32: the smallest float16 over 2**10 would be 0 in float16, where Lion reads its sign."""
    p = torch.nn.Parameter(torch.zeros(2, dtype=dtype))
    p.grad = torch.tensor([2.0**-24, -(2.0**-24)], dtype=dtype)
    opt = fs.optim.Lion([p], lr=0.5, amp=True)
    opt.grad_scale, opt.found_inf = torch.tensor(2.0**10), torch.tensor(0.0)
    opt.step()
    assert p.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("scaled", [True, False])
def test_a_scaler_that_is_switched_off_steps_as_usual(scaled):
    params = params_of([(3,)])
    opt = fs.optim.SGD(params, amp=scaled)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    scaler.scale(params[0].sum()).backward()
    scaler.step(opt)
    assert opt.position == 1


@pytest.mark.parametrize("rule", list(RULES))
def test_a_copy_keeps_amp_limits_and_zeroing(rule):
    params = params_of([(3,)])
    opt = copy.deepcopy(chosen(rule, params, amp=True, max_grad_norm=1.0, zero_grads=True))
    assert opt._step_supports_amp_scaling
    twins = opt.param_groups[0]["params"]
    give_grads(twins, seed=0)
    twins[0].grad[0] = math.nan
    before = bits(twins[0]).clone()
    opt.step()
    assert torch.equal(bits(twins[0]), before)
    assert not twins[0].grad.any()
