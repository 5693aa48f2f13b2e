"""Numbers at their limits, in every place where one may stand: torch's outcome, or one that is documented as better.

Where torch has a namesake it is the reference, in the same dtype for what overflows and in float64 for what rounds.
Lion's is tests/optimizers.py's plain one.
"""

import math

import pytest
import torch
from optimizers import RULES, Plain, chosen, equal, machine, params_of, same_bits, weights

import fastsched as fs

NAMESAKES = ("AdamW", "Adam", "SGD")
STATE = {"AdamW": ("exp_avg", "exp_avg_sq"), "Adam": ("exp_avg", "exp_avg_sq"), "SGD": ("momentum_buffer",)}
WITH_STATE = {"AdamW": {}, "Adam": {"weight_decay": 0.1}, "SGD": {"momentum": 0.9, "weight_decay": 0.1}, "Lion": {}}
DTYPES = [torch.float32, torch.float64]
# A few updates of a dozen operations, each of which rounds by half of eps.
ROUNDINGS = 32


def specials(dtype):
    limits = torch.finfo(dtype)
    return {
        "nan": math.nan,
        "inf": math.inf,
        "-inf": -math.inf,
        "-0": -0.0,
        "denormal": limits.smallest_normal / 8,
        "smallest": limits.smallest_normal * limits.eps,
        "largest": limits.max,
    }


SPECIALS = list(specials(torch.float32))


def reference(rule, params, **options):
    """What decides: torch's optimizer, one tensor at a time."""
    if rule == "Lion":
        return Plain(rule, params, **options)
    return getattr(torch.optim, rule)(params, foreach=False, **options)


def both(rule, dtype, **options):
    ours, theirs = params_of([(5,)], dtype=dtype), params_of([(5,)], dtype=dtype)
    return ours[0], theirs[0], chosen(rule, ours, **options), reference(rule, theirs, **options)


def step_both(ours, theirs, a, b, grad):
    ours.grad, theirs.grad = grad.to(ours.dtype, copy=True), grad.to(theirs.dtype, copy=True)
    a.step()
    b.step()


def require_close(ours, theirs):
    limits = torch.finfo(ours.dtype)
    # What is below the smallest normal number has no eps to be near by.
    torch.testing.assert_close(
        ours, theirs, rtol=ROUNDINGS * limits.eps, atol=ROUNDINGS * limits.smallest_normal, equal_nan=True
    )


def grad_of(dtype, *special):
    return torch.tensor([*special, 1.0, -2.0, 0.5, 3.0, -1.0][:5], dtype=dtype)


# ---- a special number in each place


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("rule", NAMESAKES)
def test_a_special_gradient_leaves_what_torch_leaves(rule, special, dtype):
    ours, theirs, a, b = both(rule, dtype, **WITH_STATE[rule])
    for first in (1.0, specials(dtype)[special], 1.0):
        step_both(ours, theirs, a, b, grad_of(dtype, first))
    require_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("rule", NAMESAKES)
def test_a_special_weight_becomes_what_it_becomes_in_torch(rule, special, dtype):
    ours, theirs, a, b = both(rule, dtype, **WITH_STATE[rule])
    for weight in (ours, theirs):
        weight.data[0] = specials(dtype)[special]
    for _ in range(3):
        step_both(ours, theirs, a, b, grad_of(dtype))
    if rule == "AdamW" and math.isinf(specials(dtype)[special]):  # less its decay: infinity minus infinity
        assert ours.isnan().tolist() == theirs.isinf().tolist() == [True, False, False, False, False]
        ours, theirs = ours[1:], theirs[1:]
    require_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize(("rule", "key"), [(rule, key) for rule in NAMESAKES for key in STATE[rule]])
def test_a_special_state_leaves_what_torch_leaves(rule, key, special, dtype):
    ours, theirs, a, b = both(rule, dtype, **WITH_STATE[rule])
    step_both(ours, theirs, a, b, grad_of(dtype))
    value = abs(specials(dtype)[special]) if key == "exp_avg_sq" else specials(dtype)[special]
    for weight, optimizer in ((ours, a), (theirs, b)):
        optimizer.state[weight][key][0] = value
    for _ in range(2):
        step_both(ours, theirs, a, b, grad_of(dtype))
    require_close(ours, theirs)


HYPERPARAMETERS = {
    "AdamW": ("lr", "weight_decay", "eps"),
    "Adam": ("lr", "weight_decay", "eps"),
    "SGD": ("lr", "weight_decay", "momentum", "dampening"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-30, 1e30, math.inf, math.nan])
@pytest.mark.parametrize(("rule", "key"), [(rule, key) for rule in NAMESAKES for key in HYPERPARAMETERS[rule]])
def test_a_special_hyperparameter_in_a_group_leaves_what_torch_leaves(rule, key, value, dtype):
    ours, theirs, a, b = both(rule, dtype, **WITH_STATE[rule])
    step_both(ours, theirs, a, b, grad_of(dtype))
    for optimizer in (a, b):
        optimizer.param_groups[0][key] = value
    for _ in range(2):
        step_both(ours, theirs, a, b, grad_of(dtype))
    if rule == "AdamW" and math.isinf(value) and key != "eps":  # infinity minus infinity, in another order
        assert not torch.cat([ours, theirs]).isfinite().any()
    else:
        require_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.0, 0.999), (0.9, 0.0), (0.5, 0.25), (math.nextafter(1, 0), 0.999)])
@pytest.mark.parametrize("rule", ["AdamW", "Adam"])
def test_betas_at_their_limits_are_torchs_in_float64(rule, betas, dtype):
    ours, exact = params_of([(5,)], dtype=dtype), params_of([(5,)], dtype=torch.float64)
    a, b = chosen(rule, ours, betas=betas), reference(rule, exact, betas=betas)
    for scale in (1.0, 0.5, -2.0):
        step_both(ours[0], exact[0], a, b, scale * grad_of(dtype))
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=ROUNDINGS * torch.finfo(dtype).eps, atol=1e-9)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, 1.0), (0.9, math.nan), (-0.1, 0.9), (math.inf, 0.9)])
@pytest.mark.parametrize("rule", ["AdamW", "Lion"])
def test_betas_out_of_range_in_a_group_are_refused_where_torch_would_divide_by_zero(rule, betas):
    weight = params_of([(5,)])[0]
    opt = chosen(rule, [weight])
    weight.grad = grad_of(torch.float32)
    opt.param_groups[0]["betas"] = betas
    before = weights([weight])
    with pytest.raises(ValueError, match="betas must be >= 0 and < 1"):
        opt.step()
    assert equal([weight], before)
    assert opt.state[weight] == {}


@pytest.mark.parametrize("rule", RULES)
def test_an_lr_of_0_moves_the_state_and_no_bit_of_a_weight(rule):
    params = params_of([(5,), (1000,)])
    opt = chosen(rule, params, **{**WITH_STATE[rule], "weight_decay": 0.1})
    with torch.no_grad():
        params[0][0] = -0.0
    before = weights(params)
    opt.param_groups[0]["lr"] = 0.0
    for param in params:
        param.grad = torch.ones_like(param)
    opt.param_groups[0]["lr"] = 0.0
    opt.step()
    opt.step()
    # A first step with lr 0 and zero gradients would be a checkpoint's probe; these gradients are not zero.
    assert opt.position == 2
    assert equal(params, before)


@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("rule", NAMESAKES)
def test_special_gradients_with_lr_0_leave_what_torch_leaves(rule, special):
    ours, theirs, a, b = both(rule, torch.float32, lr=0.0, **WITH_STATE[rule])
    step_both(ours, theirs, a, b, grad_of(torch.float32, specials(torch.float32)[special]))
    require_close(ours, theirs)


# ---- no element harms another


@pytest.mark.parametrize("isa", fs._core.isas())
@pytest.mark.parametrize("rule", RULES)
def test_a_nan_stays_in_its_element(rule, isa):
    size, at = 1003, 517
    ours, clean = params_of([(size,)]), params_of([(size,)])
    options = {**WITH_STATE[rule], "ema_decay": 0.5}
    a, b = chosen(rule, ours, **options), chosen(rule, clean, **options)
    grad = torch.linspace(-1, 1, size)
    with machine(isa=isa):
        for spoilt in (True, False):
            clean[0].grad, ours[0].grad = grad.clone(), grad.clone()
            if spoilt:
                ours[0].grad[at] = math.nan
            a.step()
            b.step()
    others = torch.arange(size) != at
    for x, y in ((ours[0], clean[0]), (a.state[ours[0]]["ema"], b.state[clean[0]]["ema"])):
        assert same_bits([x[others]], [y[others]])
    assert ours[0].isnan().sum() == (0 if rule == "Lion" else 1)


@pytest.mark.parametrize("isa", fs._core.isas())
def test_denormal_numbers_are_computed_with_and_not_flushed(isa):
    smallest = 2.0**-149
    weight = torch.nn.Parameter(smallest * torch.arange(1.0, 40.0))
    opt = fs.optim.SGD([weight], lr=1.0)
    weight.grad = torch.full((39,), smallest)
    with machine(isa=isa):
        opt.step()
    assert torch.equal(weight.detach(), smallest * torch.arange(0.0, 39.0))


def test_a_step_leaves_the_processors_treatment_of_denormal_numbers_alone():
    weight = params_of([(40,)])[0]
    opt = fs.optim.AdamW([weight])
    weight.grad = torch.full((40,), 1e-42)
    opt.step()
    assert (torch.full((40,), 1e-42) * 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_weight_beyond_the_largest_half_number_becomes_infinite(dtype, sign):
    weight = torch.nn.Parameter(torch.full((4,), sign * torch.finfo(dtype).max, dtype=dtype))
    opt = fs.optim.SGD([weight], lr=1.0)
    weight.grad = torch.full((4,), -sign * torch.finfo(dtype).max, dtype=dtype)
    opt.step()
    assert torch.equal(weight.detach(), torch.full((4,), sign * math.inf, dtype=dtype))


# ---- eps 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["AdamW", "Adam"])
def test_eps_0_is_torchs_for_denormal_and_zero_gradients(rule, dtype):
    ours, theirs, a, b = both(rule, dtype, eps=0.0)
    tiny = torch.finfo(dtype).smallest_normal
    for _ in range(2):
        # A square that underflows to 0 makes 0 / 0 or x / 0: NaN or infinity, in torch too.
        step_both(ours, theirs, a, b, torch.tensor([0.0, tiny, math.sqrt(tiny), 1.0, -1.0], dtype=dtype))
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    if rule == "Adam":  # decoupled decay makes an infinite weight NaN
        assert torch.equal(ours.isnan(), theirs.isnan())
    require_close(ours[3:], theirs[3:])


# ---- clipping


@pytest.mark.parametrize("value", [1e36, 1e38, 3e38, 1e-42])
def test_a_norm_that_overflows_float32_still_clips_as_in_float64(value):
    ours, exact = params_of([(1000,)]), params_of([(1000,)], dtype=torch.float64)
    opt, plain = fs.optim.SGD(ours, lr=1.0, max_grad_norm=1.0), torch.optim.SGD(exact, lr=1.0)
    ours[0].grad = torch.full((1000,), value)
    exact[0].grad = ours[0].grad.double()
    torch.nn.utils.clip_grad_norm_(exact, 1.0)
    opt.step()
    plain.step()
    assert opt.skipped == 0
    # The factor that brings such gradients down to 1 is a denormal float32: a multiple of 2**-149.
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=0, atol=2**-21 + value * 2.0**-150)


def test_a_norm_that_overflows_float64_skips_where_torch_would_apply_zeros():
    weight = params_of([(3,)], dtype=torch.float64)[0]
    opt = fs.optim.SGD([weight], lr=1.0, max_grad_norm=1.0, weight_decay=0.1)
    before = weights([weight])
    weight.grad = torch.full((3,), 1e200, dtype=torch.float64)
    opt.step()
    assert (opt.skipped, opt.grad_norm) == (1, math.inf)
    assert equal([weight], before)


# ---- counters that float32 cannot hold


SLOW = (0.9, 1 - 2.0**-24)  # a beta whose correction is not over after 2**24 updates


@pytest.mark.parametrize("start", [2**24 - 2, 2**31 - 2])
@pytest.mark.parametrize("rule", ["AdamW", "Adam"])
def test_updates_past_what_float32_counts_are_corrected_as_in_float64(rule, start):
    ours, theirs, a, b = both(rule, torch.float64, betas=SLOW)
    step_both(ours, theirs, a, b, grad_of(torch.float64))
    a.state[ours]["step"].fill_(start)
    b.state[theirs]["step"] = torch.tensor(float(a.state[ours]["step"]), dtype=torch.float64)
    for _ in range(5):
        step_both(ours, theirs, a, b, grad_of(torch.float64))
    require_close(ours, theirs)


def test_torchs_count_stops_at_2_to_the_24_and_this_one_does_not():
    ours, theirs, a, b = both("AdamW", torch.float32)
    step_both(ours, theirs, a, b, grad_of(torch.float32))
    for weight, optimizer in ((ours, a), (theirs, b)):
        optimizer.state[weight]["step"].fill_(2**24 - 1)
    for _ in range(5):
        step_both(ours, theirs, a, b, grad_of(torch.float32))
    assert b.state[theirs]["step"].item() == 2**24
    assert a.state[ours]["step"].item() == 2**24 + 4


@pytest.mark.parametrize("edge", [2**24 + 1, 2**31 + 1, 2**53 - 2])
def test_a_schedules_edge_is_met_exactly_at_any_position(edge):
    weight = params_of([(2,)])[0]
    opt = fs.optim.SGD([weight], lr=1.0, schedule=fs.MultiStep(milestones=[edge], gamma=0.5))
    weight.grad = torch.zeros(2)
    opt.position = edge - 2
    seen = []
    for _ in range(3):
        seen.append(opt.lrs[0])
        opt.step()
    assert seen == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("steps", [2**24 + 2, 2**31])
def test_the_position_of_a_long_run_is_recovered_from_its_checkpoint(steps):
    weight, other = params_of([(2,)])[0], params_of([(2,)])[0]
    opt, fresh = fs.optim.AdamW([weight]), fs.optim.AdamW([other])
    weight.grad = torch.ones(2)
    opt.step()
    opt.state[weight]["step"].fill_(steps)
    fresh.load_state_dict(opt.state_dict())
    assert fresh.position == steps


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, 1e19])
def test_a_count_that_is_none_is_refused_before_anything_changes(bad):
    weight = params_of([(2,)])[0]
    opt = fs.optim.AdamW([weight])
    weight.grad = torch.ones(2)
    opt.step()
    opt.state[weight]["step"].fill_(bad)
    before = weights([weight])
    with pytest.raises(ValueError, match="step must be"):
        opt.step()
    assert equal([weight], before)
