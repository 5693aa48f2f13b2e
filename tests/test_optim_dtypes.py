"""Parameters, gradients and state of every floating dtype: the rounding of each, to nearest and stochastic."""

import functools
import itertools
import math

import pytest
import torch
from optimizers import (
    HALVES,
    RULES,
    SHAPES,
    Plain,
    bits,
    chosen,
    copies,
    equal,
    everything,
    give_grads,
    in_other_strides,
    machine,
    params_of,
    plausible,
    rms,
    same_bits,
    weights,
)

import fastsched as fs

BFLOAT = torch.bfloat16
FLOATS = [torch.float64, torch.float32, *HALVES]
COMPLEX = [torch.complex64, torch.complex128]
OPTIONS = {
    "AdamW": {"lr": 0.1, "weight_decay": 0.1},
    "Adam": {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True},
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "Lion": {"lr": 0.1, "weight_decay": 0.1},
}
MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}


def made(rule, params, **options):
    return chosen(rule, params, **OPTIONS[rule], **options)


def stepped(rule, params, steps=3, **options):
    opt = made(rule, params, **options)
    for t in range(steps):
        give_grads(params, seed=t)
        opt.step()
    return opt


# ---- values


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", list(RULES))
def test_half_weights_are_within_half_an_ulp_of_the_exact_update(rule, dtype):
    params, exact = params_of(SHAPES, dtype=dtype), params_of(SHAPES, dtype=torch.float64)
    opt, reference = made(rule, params), Plain(rule, exact, **OPTIONS[rule])
    for t in range(10):
        give_grads(params, seed=t)
        for p, e in zip(params, exact, strict=True):
            e.data.copy_(p.detach())  # only the state runs on
            e.grad = p.grad.double()
        opt.step()
        reference.step()
        # half an ulp of the dtype, and what float32 adds where a weight of size 1 moves close to 0
        torch.testing.assert_close(
            [p.double() for p in weights(params)], weights(exact),
            rtol=torch.finfo(dtype).eps / 2 * (1 + 2**-8), atol=2**-25 + 4 * 2**-24,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", list(RULES))
def test_the_state_of_half_parameters_is_that_of_a_float32_run(rule, dtype):
    halves = params_of(SHAPES, dtype=dtype)
    floats = copies(halves, torch.float32)
    a, b = (chosen(rule, x, **{**OPTIONS[rule], "lr": 0.0}) for x in (halves, floats))
    for t in range(5):
        give_grads(halves, seed=t)
        for p, q in zip(halves, floats, strict=True):
            q.grad = p.grad.float()
        a.step()
        b.step()
    for p, q in zip(halves, floats, strict=True):
        keys = sorted(a.state[p])
        assert keys == sorted(b.state[q])
        assert same_bits([a.state[p][key] for key in keys], [b.state[q][key] for key in keys])


@pytest.mark.parametrize("dtype", HALVES)
def test_half_weights_are_nearer_to_a_float64_run_than_torchs(dtype):
    """torch keeps exp_avg_sq in half precision, where 0.001 * g * g is lost; ours is in float32."""
    shapes = [(63, 61), (37,)]
    ours, theirs, exact = (params_of(shapes, dtype=dtype) for _ in range(3))
    exact = copies(exact, torch.float64)
    optimizers = [fs.optim.AdamW(ours), torch.optim.AdamW(theirs, fused=True), torch.optim.AdamW(exact)]
    with machine(threads=1):  # two threads that wait for each other would take the time of this test
        for t in range(200):
            give_grads(ours, seed=t)
            for p, q, e in zip(ours, theirs, exact, strict=True):
                q.grad, e.grad = p.grad.clone(), p.grad.double()
            for opt in optimizers:
                opt.step()
    assert rms(ours, exact) <= 1.1 * rms(theirs, exact)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("rule", ["AdamW", "Adam", "SGD"])
def test_complex_weights_and_state_are_torchs(rule, dtype):
    ours, theirs = params_of(SHAPES, dtype=dtype), params_of(SHAPES, dtype=dtype)
    a, b = made(rule, ours), getattr(torch.optim, rule)(theirs, **OPTIONS[rule])
    for t in range(10):
        give_grads(ours, theirs, seed=t)
        a.step()
        b.step()
    rounding = 64 * torch.finfo(dtype).eps  # 10 updates, a few roundings each
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=rounding, atol=rounding)
    for p, q in zip(ours, theirs, strict=True):
        held = {key: value for key, value in a.state[p].items() if key in b.state[q]}
        torch.testing.assert_close(held, dict(b.state[q]), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("rule", list(RULES))
def test_a_complex_parameter_is_updated_as_its_real_view(rule, dtype):
    params = params_of(SHAPES, dtype=dtype)
    views = [torch.nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in params]
    a, b = (made(rule, x, max_grad_norm=1.0, ema_decay=0.5) for x in (params, views))
    for t in range(4):
        give_grads(params, seed=t)
        for p, q in zip(params, views, strict=True):
            q.grad = torch.view_as_real(p.grad).clone()
        a.step()
        b.step()
    assert same_bits([torch.view_as_real(p) for p in weights(params)], views)


def test_a_conjugated_view_as_gradient_counts_with_its_sign():
    a, b = params_of([(5,)], dtype=torch.complex64), params_of([(5,)], dtype=torch.complex64)
    give_grads(a, b, seed=0)
    a[0].grad = a[0].grad.conj().resolve_conj().conj()
    assert a[0].grad.is_conj()
    for params in (a, b):
        fs.optim.AdamW(params).step()
    assert equal(a, b)


@pytest.mark.parametrize("isa", [isa for isa in fs._core.isas() if isa != "baseline"])
@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
@pytest.mark.parametrize("rule", list(RULES))
def test_every_instruction_set_gives_the_same_bits(rule, dtype, isa):
    runs = []
    for each in (isa, "baseline"):
        with machine(each):
            runs.append(everything(stepped(rule, params_of(SHAPES, dtype=dtype), max_grad_norm=1.0, ema_decay=0.5)))
    assert same_bits(*runs)


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
def test_any_number_of_threads_gives_the_same_bits(dtype):
    runs = []
    for threads in (1, 2, 4):
        with machine(threads=threads):
            params = params_of([(100_003,), (7,)], dtype=dtype)
            runs.append(everything(stepped("AdamW", params, max_grad_norm=1.0)))
    assert same_bits(runs[0], runs[1])
    assert same_bits(runs[0], runs[2])


def test_parameters_of_several_dtypes_in_one_group_are_updated_as_alone():
    dtypes = [*FLOATS, *COMPLEX]
    together = [params_of([(33,)], seed=i, dtype=dtype)[0] for i, dtype in enumerate(dtypes)]
    alone = copies(together)
    opts = [made("AdamW", together), *(made("AdamW", [p]) for p in alone)]
    for t in range(3):
        give_grads(together, alone, seed=t)
        for opt in opts:
            opt.step()
    assert same_bits(together, alone)


# ---- gradients of another dtype


@pytest.mark.parametrize(("dtype", "grad_dtype"), [(d, g) for d, g in itertools.product(FLOATS, FLOATS) if d is not g])
@pytest.mark.parametrize("limits", [{}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.host
def test_a_gradient_of_another_dtype_counts_as_converted_to_the_dtype_of_the_computation(dtype, grad_dtype, limits):
    computed = torch.float64 if dtype is torch.float64 else torch.float32
    a, b = params_of(SHAPES, dtype=dtype), params_of(SHAPES, dtype=dtype)
    first, second = made("AdamW", a, **limits), made("AdamW", b, **limits)
    for t in range(3):
        give_grads(a, seed=t)
        for p, q in zip(a, b, strict=True):
            grad = p.grad.double() * 1.1  # not exact in the narrow dtypes
            p.grad = q.grad = None
            p.grad_dtype = q.grad_dtype = None
            p.grad = grad.to(grad_dtype)
            q.grad = p.grad.to(computed)
        first.step()
        second.step()
    assert same_bits(everything(first), everything(second))


def test_gradients_of_another_dtype_are_zeroed_in_place():
    p = params_of([(5,)], dtype=BFLOAT)[0]
    p.grad_dtype = None
    grad = p.grad = torch.ones(5)
    fs.optim.SGD([p], zero_grads=True).step()
    assert p.grad is grad
    assert not grad.any()


# ---- the dtype of the state


@pytest.mark.parametrize(
    ("dtype", "state_dtype", "expected"),
    [
        (torch.float32, None, torch.float32), (torch.float64, None, torch.float64), (BFLOAT, None, torch.float32),
        (torch.float16, None, torch.float32), (torch.float32, BFLOAT, BFLOAT), (torch.float64, BFLOAT, BFLOAT),
        (BFLOAT, BFLOAT, BFLOAT), (torch.float16, BFLOAT, BFLOAT), (torch.float64, torch.float32, torch.float32),
        (BFLOAT, torch.float32, torch.float32), (torch.complex64, None, torch.complex64),
        (torch.complex128, None, torch.complex128),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rule", list(RULES))
def test_the_state_has_the_dtype_that_was_asked_for(rule, dtype, state_dtype, expected):
    params = params_of([(3,)], dtype=dtype)
    held = stepped(rule, params, state_dtype=state_dtype).state[params[0]]
    assert {value.dtype for key, value in held.items() if key in MOMENTS} == {expected}
    assert held["step"].dtype == torch.float32


@pytest.mark.parametrize("rule", ["AdamW", "Adam", "SGD"])
def test_bfloat16_state_is_near_float32_state(rule):
    a, b = params_of([(1000,)]), params_of([(1000,)])
    narrow, wide = stepped(rule, a, state_dtype=BFLOAT), stepped(rule, b)
    for key in MOMENTS & set(wide.state[b[0]]):
        # 3 updates, each off by less than one bfloat16 ulp of a value of size 1
        torch.testing.assert_close(
            narrow.state[a[0]][key].float(), wide.state[b[0]][key], rtol=3 * 2**-7, atol=3 * 2**-7
        )


@pytest.mark.parametrize("wrong", [torch.float16, torch.int32, "bfloat16", True])
def test_another_state_dtype_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="AdamW: state_dtype must be"):
        fs.optim.AdamW(params_of([(3,)]), state_dtype=wrong)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_parameters_that_are_no_floats_are_refused(dtype):
    whole = torch.nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=False)
    with pytest.raises(ValueError, match=r"AdamW: group 0, parameter 0: must be .*, got torch\.(int32|bool)"):
        fs.optim.AdamW([whole])


# ---- every half value


def every_half(dtype):
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).clone()


@pytest.mark.parametrize("isa", fs._core.isas())
@pytest.mark.parametrize("extra", [{}, {"master_weights": True}, {"stochastic_rounding": True}], ids=str)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", list(RULES))
def test_a_step_of_lr_0_keeps_every_half_value(rule, dtype, extra, isa):
    p = torch.nn.Parameter(every_half(dtype))
    before = p.detach().clone()
    with machine(isa):
        opt = chosen(rule, [p], lr=0.0, weight_decay=0.0, **extra)
        for _ in range(2):
            p.grad = torch.ones_like(p)
            opt.step()
    number = ~before.isnan()
    assert torch.equal(bits(p)[number], bits(before)[number])
    assert p[~number].isnan().all()  # payloads and quietness of NaN are nobody's business


@functools.cache
def hard_to_round(dtype):
    """float32 values: every half value, every midpoint of two, those next to a midpoint, and random bits."""
    half = every_half(dtype)
    half = half[half.isfinite()].double().sort().values
    largest = half[-1]
    past = 2 * largest - half[-2]  # where the next one would be; from halfway there on it is infinity
    middle = ((half[1:] + half[:-1]) / 2).float()
    edge = ((largest + past) / 2).float().reshape(1)
    middle = torch.cat([middle, edge, -edge])
    infinity = torch.tensor(math.inf)
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(-(2**31), 2**31, (2**17,), generator=generator).to(torch.int32).view(torch.float32)
    tiny = torch.arange(1, 3000).to(torch.int32).view(torch.float32)  # float32 subnormals
    specials = torch.tensor([math.inf, -math.inf, math.nan, 3.4028234663852886e38, 1e-45])
    below, above = torch.nextafter(middle, -infinity), torch.nextafter(middle, infinity)
    return torch.cat([half.float(), middle, below, above, random, tiny, -tiny, specials])


def assert_rounded(result, values):
    expected = values.to(result.dtype)
    number = ~values.isnan() & (values != 0)  # 0 - -0 is 0: its sign is the update's business
    assert torch.equal(bits(result)[number], bits(expected)[number])
    assert torch.equal(result.isnan(), values.isnan())


@pytest.mark.parametrize("isa", fs._core.isas())
@pytest.mark.parametrize("dtype", HALVES)
def test_weights_are_rounded_to_nearest_even_as_torch_does(dtype, isa):
    values = hard_to_round(dtype)
    p = torch.nn.Parameter(torch.zeros(len(values), dtype=dtype))
    p.grad_dtype = None
    p.grad = -values
    with machine(isa):
        fs.optim.SGD([p], lr=1.0).step()
    assert_rounded(p.detach(), values)


@pytest.mark.parametrize("isa", fs._core.isas())
@pytest.mark.parametrize("dtype", HALVES)
def test_masters_are_rounded_to_nearest_even_as_torch_does(dtype, isa):
    values = hard_to_round(dtype)
    p = torch.nn.Parameter(torch.zeros(len(values), dtype=dtype))
    p.grad_dtype = None
    p.grad = -values
    with machine(isa):
        opt = fs.optim.SGD([p], lr=1.0, master_weights=True)
        opt.step()
    number = ~values.isnan()
    assert torch.equal(opt.state[p]["master_param"][number], values[number])
    assert_rounded(p.detach(), values)


@pytest.mark.parametrize("isa", fs._core.isas())
@pytest.mark.parametrize("dtype", HALVES)
def test_half_gradients_are_read_exactly(dtype, isa):
    values = every_half(dtype)
    p = torch.nn.Parameter(torch.zeros(len(values)))
    p.grad_dtype = None
    p.grad = values.clone()
    with machine(isa):
        fs.optim.SGD([p], lr=1.0).step()
    torch.testing.assert_close(p.detach(), 0.0 - values.float(), rtol=0, atol=0, equal_nan=True)


@in_other_strides
@pytest.mark.parametrize("options", [{}, {"master_weights": True, "ema_decay": 0.5}], ids=["plain", "masters"])
@pytest.mark.parametrize("dtype", [torch.float64, *HALVES, torch.complex64])
def test_any_strides_give_the_weights_of_the_contiguous_tensor(dtype, options, change):
    values = (torch.arange(48.0).reshape(8, 6) / 8).to(dtype)
    strided = torch.nn.Parameter(change(values.clone()))
    plain = torch.nn.Parameter(strided.detach().clone(memory_format=torch.contiguous_format))
    a, b = (fs.optim.AdamW([p], lr=0.1, **options) for p in (strided, plain))
    for t in range(3):
        give_grads([plain], seed=t)
        strided.grad = change(torch.zeros(8, 6, dtype=dtype)).copy_(plain.grad)
        a.step()
        b.step()
    assert torch.equal(strided, plain)
    assert torch.equal(a.state[strided]["exp_avg_sq"], b.state[plain]["exp_avg_sq"])


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
@pytest.mark.parametrize("rule", list(RULES))
def test_a_parameter_of_no_dimension_is_updated_as_one_of_one_element(rule, dtype):
    a, b = params_of([()], dtype=dtype), params_of([()], dtype=dtype)
    b = [torch.nn.Parameter(b[0].detach().reshape(1))]
    opts = [made(rule, a), made(rule, b)]
    for t in range(3):
        give_grads(a, seed=t)
        b[0].grad = a[0].grad.reshape(1).clone()
        for opt in opts:
            opt.step()
    assert same_bits([a[0].reshape(1)], b)


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
def test_an_empty_parameter_has_state_and_a_step_count(dtype):
    params = params_of([(0, 4)], dtype=dtype)
    opt = stepped("AdamW", params, max_grad_norm=1.0, ema_decay=0.5)
    held = opt.state[params[0]]
    assert held["step"].item() == 3
    assert held["exp_avg"].shape == (0, 4)


# ---- masters


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", list(RULES))
def test_masters_have_the_bits_of_a_float32_run_with_the_same_gradients(rule, dtype):
    halves = params_of(SHAPES, dtype=dtype)
    floats = copies(halves, torch.float32)
    a, b = made(rule, halves, master_weights=True), made(rule, floats)
    for t in range(6):
        give_grads(halves, seed=t)
        for p, q in zip(halves, floats, strict=True):
            q.grad = p.grad.float()
        a.step()
        b.step()
        assert same_bits(halves, [a.state[p]["master_param"].to(dtype) for p in halves])
    assert same_bits([a.state[p]["master_param"] for p in halves], floats)


def test_updates_too_small_for_bfloat16_add_up_in_the_master():
    p = torch.nn.Parameter(torch.ones(4, dtype=BFLOAT))
    opt = fs.optim.SGD([p], lr=2.0**-12, master_weights=True)
    for _ in range(64):
        p.grad = -torch.ones_like(p)
        opt.step()
    assert p.tolist() == [1 + 64 * 2**-12] * 4


@pytest.mark.parametrize("dtype", HALVES)
def test_an_element_that_somebody_wrote_replaces_its_master_and_the_others_keep_theirs(dtype):
    p = torch.nn.Parameter(torch.ones(4, dtype=dtype))
    opt = fs.optim.SGD([p], lr=1.0, master_weights=True)
    p.grad_dtype = None
    p.grad = torch.full((4,), -(2.0**-14))
    opt.step()
    with torch.no_grad():
        p[2] = 3.0
    opt.step()
    once, twice = 1 + 2.0**-14, 1 + 2 * 2.0**-14
    assert once != 1
    assert opt.state[p]["master_param"].tolist() == [twice, twice, 3 + 2.0**-14, twice]
    assert p.tolist() == [1.0, 1.0, 3.0, 1.0]


def test_weights_that_were_loaded_into_the_model_replace_the_masters():
    model = torch.nn.Linear(3, 2).bfloat16()
    opt = stepped("AdamW", list(model.parameters()), master_weights=True)
    other = torch.nn.Linear(3, 2).bfloat16()
    model.load_state_dict(other.state_dict())
    opt.param_groups[0].update(lr=0.0)
    give_grads(list(model.parameters()), seed=5)
    opt.step()
    assert equal([opt.state[p]["master_param"] for p in model.parameters()], [p.float() for p in other.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_wider_parameters_have_no_masters(dtype):
    params = params_of(SHAPES, dtype=dtype)
    opt = stepped("AdamW", params, master_weights=True)
    assert all("master_param" not in opt.state[p] for p in params)


def test_without_master_weights_there_is_no_such_state():
    params = params_of(SHAPES, dtype=BFLOAT)
    opt = stepped("AdamW", params)
    assert all("master_param" not in opt.state[p] for p in params)


# ---- stochastic rounding

DRAWS = 2**16
ULP = 2.0**-7  # of a bfloat16 in [1, 2)


def ups(fraction, *, size=DRAWS, count=1, updates=1, start=1.0, seed=0, isa=None, threads=None, which=0):
    """Which elements of weights `start` went up when `fraction` of an ulp was added, at the last of the updates."""
    params = [torch.nn.Parameter(torch.full((size,), start, dtype=BFLOAT)) for _ in range(count)]
    opt = fs.optim.SGD(params, lr=1.0, stochastic_rounding=True, seed=seed)
    with machine(isa, threads):
        for _ in range(updates):
            for p in params:
                p.data.fill_(start)
                p.grad_dtype = None
                p.grad = torch.full((size,), -math.copysign(fraction * ULP, start))
            opt.step()
    result = params[which].detach().float()
    up = result == start + math.copysign(ULP, start)
    assert ((result == start) | up).all()
    return up


def agree(a, b):
    return int((a == b).sum())


@pytest.mark.parametrize("start", [1.0, -1.0])
@pytest.mark.parametrize("fraction", [2**-10, 0.125, 0.5, 0.75, 1 - 2**-6])
def test_a_weight_goes_up_with_the_probability_of_the_fraction(fraction, start):
    # false alarm: once in 1.7 million seeds, see SIGMAS
    assert plausible(int(ups(fraction, start=start).sum()), DRAWS, fraction)


def test_the_mean_of_many_weights_follows_updates_too_small_to_be_seen():
    p = torch.nn.Parameter(torch.ones(DRAWS, dtype=BFLOAT))
    p.grad_dtype = None
    opt = fs.optim.SGD([p], lr=1.0, stochastic_rounding=True)
    fraction, steps = 0.125, 64
    for _ in range(steps):
        p.grad = torch.full((DRAWS,), -fraction * ULP)
        opt.step()
    moved = (p.detach().double().mean().item() - 1) / ULP
    deviation = math.sqrt(steps * fraction * (1 - fraction) / DRAWS)
    assert abs(moved - steps * fraction) <= 5 * deviation  # false alarm: once in 1.7 million seeds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_infinite_bfloat16_average_stays_infinite(dtype):
    p = torch.nn.Parameter(torch.ones(64, dtype=dtype))
    opt = fs.optim.SGD([p], lr=0.0, momentum=0.9, state_dtype=torch.bfloat16)
    p.grad = torch.full_like(p, 3.4e38 if dtype is torch.float32 else 1e300)
    for _ in range(2):
        opt.step()
    assert opt.state[p]["momentum_buffer"].isposinf().all()


def test_values_that_bfloat16_holds_are_not_disturbed():
    assert not ups(0.0).any()
    assert ups(1.0).all()


def test_infinities_and_nan_stay_and_the_largest_value_does_not_turn_into_nan():
    largest = torch.finfo(BFLOAT).max
    p = torch.nn.Parameter(torch.tensor([math.inf, -math.inf, math.nan, largest, -largest], dtype=BFLOAT).repeat(1000))
    p.grad = torch.zeros_like(p)
    before = p.detach().clone()
    fs.optim.SGD([p], lr=1.0, stochastic_rounding=True).step()
    torch.testing.assert_close(p.detach(), before, rtol=0, atol=0, equal_nan=True)


def test_the_same_seed_gives_the_same_bits():
    assert torch.equal(ups(0.5, updates=2), ups(0.5, updates=2))


@pytest.mark.parametrize("isa", [isa for isa in fs._core.isas() if isa != "baseline"])
def test_every_instruction_set_rounds_the_same_elements(isa):
    # 1 more, so that there is a remainder
    assert torch.equal(ups(0.5, size=DRAWS + 1, isa=isa), ups(0.5, size=DRAWS + 1, isa="baseline"))


@pytest.mark.parametrize("threads", [2, 4])
def test_any_number_of_threads_rounds_the_same_elements(threads):
    assert torch.equal(ups(0.5, size=2 * DRAWS + 1, threads=threads), ups(0.5, size=2 * DRAWS + 1, threads=1))


def test_the_grouping_does_not_matter():
    def halves(parts):
        params = params_of([(1000,)] * 4, dtype=BFLOAT)
        groups = [{"params": part} for part in parts(params)]
        opt = fs.optim.AdamW(groups, stochastic_rounding=True, state_dtype=BFLOAT, lr=0.1)
        for t in range(3):
            give_grads(params, seed=t)
            opt.step()
        return everything(opt)

    assert same_bits(halves(lambda p: [p]), halves(lambda p: [p[:1], p[1:3], p[3:]]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"seed": 0}, {"seed": 1}),
        ({"seed": 0}, {"seed": 2**31}),
        ({"updates": 1}, {"updates": 2}),
        ({"updates": 3}, {"updates": 5}),
        ({"count": 3, "which": 0}, {"count": 3, "which": 1}),
        ({"count": 3, "which": 1}, {"count": 3, "which": 2}),
        ({"seed": 0, "updates": 2}, {"seed": 1, "updates": 1}),
        ({"seed": 1, "count": 2, "which": 0}, {"seed": 0, "count": 2, "which": 1}),
        ({"updates": 2, "count": 2, "which": 0}, {"updates": 1, "count": 2, "which": 1}),
    ],
    ids=str,
)
def test_another_seed_step_or_tensor_rounds_independently(one, other):
    # of two independent fair coins half agree; false alarm: once in 1.7 million seeds
    assert plausible(agree(ups(0.5, **one), ups(0.5, **other)), DRAWS, 0.5)


def test_a_parameter_without_gradient_does_not_change_the_bits_of_the_others():
    runs = []
    for missing in (False, True):
        params = params_of([(1000,)] * 3, dtype=BFLOAT)
        opt = fs.optim.AdamW(params, lr=0.1, stochastic_rounding=True, state_dtype=BFLOAT)
        for t in range(3):
            give_grads(params, seed=t)
            if missing:
                params[0].grad = None
            opt.step()
        runs.append(params[1:])
    assert same_bits(*runs)


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.t().contiguous().t()], ids=["contiguous", "transposed"])
def test_the_layout_of_a_gradient_does_not_change_the_bits(change):
    """Another layout of the same gradient, as accumulation or a hook may bring it in one step and not in the next."""
    runs = []
    for lay in (torch.clone, change, lambda x: x.repeat(1, 2)[:, : x.shape[1]]):
        p = torch.nn.Parameter(change(torch.ones(64, 40, dtype=BFLOAT)))
        p.grad = lay(torch.full((64, 40), -ULP / 2, dtype=BFLOAT))
        opt = fs.optim.SGD([p], lr=1.0, momentum=0.9, stochastic_rounding=True, state_dtype=BFLOAT)
        opt.step()
        opt.step()
        runs.append([p, opt.state[p]["momentum_buffer"]])
    assert same_bits(runs[0], runs[1])
    assert same_bits(runs[0], runs[2])


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 16, 32, 64, 1024, 4096, 16384, 32768])
def test_elements_are_rounded_independently_of_those_beside_them(lag):
    up = ups(0.5)
    assert plausible(agree(up[lag:], up[:-lag]), DRAWS - lag, 0.5)


def first_state(grad, **options):
    p = torch.nn.Parameter(torch.ones(DRAWS))
    p.grad = torch.full((DRAWS,), grad)
    opt = fs.optim.Adam([p], lr=0.0, betas=(0.5, 0.5), state_dtype=BFLOAT, **options)
    opt.step()
    return opt.state[p]


# half of it, the first exp_avg, has 3/4 of an ulp to spare; half of its square 1.504 ulp
GRADIENT = 1 + 0.75 * ULP
EXPECTED = {"exp_avg": GRADIENT / 2, "exp_avg_sq": GRADIENT**2 / 2}


def up_and_chance(held, key):
    ulp = ULP / 2  # of values in [1/2, 1)
    low = math.floor(EXPECTED[key] / ulp) * ulp
    up = held[key].float() == low + ulp
    assert ((held[key].float() == low) | up).all()
    return up, (EXPECTED[key] - low) / ulp


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
def test_bfloat16_state_is_rounded_stochastically_without_being_asked(key):
    up, chance = up_and_chance(first_state(GRADIENT), key)
    assert plausible(int(up.sum()), DRAWS, chance)


def test_the_two_moments_of_an_element_are_rounded_independently():
    held = first_state(GRADIENT)
    (a, p), (b, q) = up_and_chance(held, "exp_avg"), up_and_chance(held, "exp_avg_sq")
    assert plausible(int((a & b).sum()), DRAWS, p * q)


def test_the_momentum_buffer_is_rounded_stochastically():
    p = torch.nn.Parameter(torch.ones(DRAWS))
    p.grad = torch.full((DRAWS,), 1 + 0.25 * ULP)
    opt = fs.optim.SGD([p], momentum=0.9, state_dtype=BFLOAT)
    opt.step()
    assert plausible(int((opt.state[p]["momentum_buffer"].float() == 1 + ULP).sum()), DRAWS, 0.25)


def test_a_weight_and_its_moment_are_rounded_independently():
    p = torch.nn.Parameter(torch.zeros(DRAWS, dtype=BFLOAT))
    p.grad_dtype = None
    p.grad = torch.full((DRAWS,), 1 + 0.5 * ULP)
    # both become 1 and half an ulp: the weight by lr, the moment by the gradient
    opt = fs.optim.Lion([p], lr=1 + 0.5 * ULP, betas=(0.5, 0.0), state_dtype=BFLOAT, stochastic_rounding=True)
    opt.step()
    weight, moment = p.detach().float() == -(1 + ULP), opt.state[p]["exp_avg"].float() == 1 + ULP
    assert plausible(agree(weight, moment), DRAWS, 0.5)


def test_exp_avg_sq_in_bfloat16_grows_by_additions_too_small_for_nearest():
    """0.001 of a second moment near 1 is an eighth of its ulp: rounded to nearest it would stand still."""
    p = torch.nn.Parameter(torch.ones(DRAWS))
    opt = fs.optim.Adam([p], lr=0.0, betas=(0.0, 0.999), state_dtype=BFLOAT)
    p.grad = torch.ones(DRAWS)
    opt.step()
    opt.state[p]["exp_avg_sq"].fill_(0.5)
    steps = 32
    for _ in range(steps):
        opt.step()
    exact = 1 - 0.5 * 0.999**steps
    # each of 32 roundings of values in [1/2, 1) has a deviation of at most half an ulp
    deviation = math.sqrt(steps) * ULP / 4 / math.sqrt(DRAWS)
    assert abs(opt.state[p]["exp_avg_sq"].double().mean().item() - exact) <= 5 * deviation


def test_without_stochastic_rounding_bfloat16_weights_are_rounded_to_nearest():
    p = torch.nn.Parameter(torch.ones(1000, dtype=BFLOAT))
    p.grad_dtype = None
    p.grad = torch.full((1000,), -0.375 * ULP)
    fs.optim.SGD([p], lr=1.0).step()
    assert p.tolist() == [1.0] * 1000


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_stochastic_rounding_is_for_bfloat16_alone(dtype):
    a, b = params_of(SHAPES, dtype=dtype), params_of(SHAPES, dtype=dtype)
    stepped("AdamW", a, stochastic_rounding=True)
    stepped("AdamW", b)
    assert same_bits(a, b)


def test_with_masters_weights_are_rounded_to_nearest():
    a, b = params_of(SHAPES, dtype=BFLOAT), params_of(SHAPES, dtype=BFLOAT)
    stepped("AdamW", a, stochastic_rounding=True, master_weights=True)
    stepped("AdamW", b, master_weights=True)
    assert same_bits(a, b)


@pytest.mark.parametrize("seed", ["0", 1.5, None, True])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises((TypeError, ValueError), match="AdamW: seed must be"):
        fs.optim.AdamW(params_of([(3,)], dtype=BFLOAT), stochastic_rounding=True, seed=seed)
