"""The moving average of the weights: its values, the context manager, buffers, and state."""

import contextlib
import copy
import io
import math
import pickle

import pytest
import torch
from optimizers import (
    HALVES,
    RULES,
    SHAPES,
    chosen,
    copies,
    equal,
    everything,
    give_grads,
    params_of,
    same_bits,
    weights,
)

import fastsched as fs


def made(params, rule="AdamW", decay=0.75, **options):
    return chosen(rule, params, lr=0.1, ema_decay=decay, **options)


def stepped(params, steps=3, **options):
    opt = made(params, **options)
    for t in range(steps):
        give_grads(params, seed=t)
        opt.step()
    return opt


def averages(opt, params):
    return [opt.state[p]["ema"] for p in params]


# ---- values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("rule", list(RULES))
def test_the_average_is_that_of_a_plain_loop(rule, dtype):
    params = params_of(SHAPES, dtype=dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    opt, expected = made(params, rule), [p.to(wide) for p in weights(params)]
    for t in range(10):
        give_grads(params, seed=t)
        opt.step()
        expected = [0.75 * e + 0.25 * p.detach().to(wide) for e, p in zip(expected, params, strict=True)]
        # each of 10 updates rounds values of size 4 a few times; the average forgets three quarters of that
        rounding = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(averages(opt, params), [e.to(dtype) for e in expected], rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_the_average_has_the_dtype_of_its_parameter(dtype):
    params = params_of(SHAPES, dtype=dtype)
    opt = stepped(params)
    assert {ema.dtype for ema in averages(opt, params)} == {dtype}


@pytest.mark.parametrize("dtype", HALVES)
def test_half_parameters_have_a_float32_average(dtype):
    params = params_of(SHAPES, dtype=dtype)
    opt, expected = made(params), [p.float() for p in weights(params)]
    for t in range(5):
        give_grads(params, seed=t)
        opt.step()
        expected = [0.75 * e + 0.25 * p.detach().float() for e, p in zip(expected, params, strict=True)]
    # 5 updates of float32 values of size 4
    torch.testing.assert_close(averages(opt, params), expected, rtol=8 * 2**-24, atol=8 * 2**-24)


def test_with_master_weights_the_average_is_that_of_the_masters():
    params = params_of(SHAPES, dtype=torch.bfloat16)
    opt, expected = made(params, master_weights=True), [p.float() for p in weights(params)]
    for t in range(5):
        give_grads(params, seed=t)
        opt.step()
        expected = [0.75 * e + 0.25 * opt.state[p]["master_param"] for e, p in zip(expected, params, strict=True)]
    torch.testing.assert_close(averages(opt, params), expected, rtol=8 * 2**-24, atol=8 * 2**-24)


def test_the_first_average_starts_from_the_weights_before_the_first_update():
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([0.5, 1.0])
    opt = fs.optim.SGD([p], lr=1.0, ema_decay=0.75)
    opt.step()
    assert opt.state[p]["ema"].tolist() == [0.75 * 1.0 + 0.25 * 0.5, 0.75 * -2.0 + 0.25 * -3.0]


def test_a_decay_of_1_keeps_the_first_weights_and_of_0_follows_the_last():
    params = params_of(SHAPES)
    first = weights(params)
    assert equal(averages(stepped(params, decay=1.0), params), first)
    opt = stepped(params, decay=0.0)
    assert equal(averages(opt, params), weights(params))


def test_a_schedule_as_decay_is_read_at_the_update_index():
    decay = fs.Linear(0.0, 1.0, steps=4)
    params = params_of(SHAPES)
    opt, expected = made(params, decay=decay), [p.double() for p in weights(params)]
    for t in range(6):
        give_grads(params, seed=t)
        opt.step()
        expected = [decay(t) * e + (1 - decay(t)) * p.detach().double() for e, p in zip(expected, params, strict=True)]
    torch.testing.assert_close(averages(opt, params), [e.float() for e in expected], rtol=2**-21, atol=2**-21)


def test_a_move_of_the_position_moves_the_decay():
    decay = fs.Linear(0.0, 1.0, steps=4)
    params = params_of(SHAPES)
    opt = made(params, decay=decay)
    before = weights(params)
    opt.position = 4  # decay 1 from here on
    give_grads(params, seed=0)
    opt.step()
    assert equal(averages(opt, params), before)


def test_averaging_does_not_change_the_weights():
    a, b = params_of(SHAPES), params_of(SHAPES)
    stepped(a)
    stepped(b, decay=None)
    assert same_bits(a, b)


def test_a_parameter_without_gradient_has_no_average_yet():
    params = params_of([(3,), (3,)])
    opt = made(params)
    params[0].grad = torch.ones(3)
    opt.step()
    assert "ema" in opt.state[params[0]]
    assert not opt.state.get(params[1])


def test_without_ema_decay_there_is_no_such_state():
    params = params_of(SHAPES)
    opt = stepped(params, decay=None)
    assert all("ema" not in opt.state[p] for p in params)


@pytest.mark.parametrize("rule", list(RULES))
def test_the_average_stands_in_the_state_under_its_name(rule):
    params = params_of(SHAPES)
    opt = stepped(params, rule=rule)
    assert all(opt.state_dict()["state"][i]["ema"].shape == p.shape for i, p in enumerate(params))


# ---- the context manager


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES, torch.complex64])
def test_inside_the_context_parameters_hold_their_average(dtype):
    params = params_of(SHAPES, dtype=dtype)
    opt = stepped(params)
    with opt.ema():
        # half parameters hold it rounded
        assert equal(weights(params), [ema.to(dtype) for ema in averages(opt, params)])


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("masters", [False, True])
def test_afterwards_everything_is_as_before_to_the_bit(dtype, masters):
    params = params_of(SHAPES, dtype=dtype)
    opt = stepped(params, master_weights=masters)
    before = everything(opt)
    with opt.ema():
        assert not same_bits(weights(params), before[: len(params)])
    assert same_bits(everything(opt), before)


def test_weights_that_are_nan_or_negative_zero_come_back_to_the_bit():
    p = torch.nn.Parameter(torch.tensor([math.nan, -0.0, math.inf]))
    p.grad = torch.zeros(3)
    opt = fs.optim.SGD([p], lr=0.0, ema_decay=0.5)
    opt.step()
    before = weights([p])
    with opt.ema():
        pass
    assert same_bits([p], before)


def test_an_exception_inside_restores_the_weights_too():
    params = params_of(SHAPES)
    opt = stepped(params)
    before = weights(params)
    with pytest.raises(KeyError, match="inside"), opt.ema():
        raise KeyError("inside")
    assert same_bits(params, before)


def test_what_is_written_inside_the_context_is_gone_afterwards():
    params = params_of(SHAPES)
    opt = stepped(params)
    before = everything(opt)
    with opt.ema(), torch.no_grad():
        params[2].fill_(9.0)
    assert same_bits(everything(opt), before)


def test_parameters_stay_the_same_tensors_in_the_same_memory():
    params = params_of(SHAPES)
    opt = stepped(params)
    places = [p.data_ptr() for p in params]
    with opt.ema():
        assert [p.data_ptr() for p in params] == places
    assert [p.data_ptr() for p in params] == places


def test_a_model_computes_with_the_average_inside():
    model = torch.nn.Linear(3, 2)
    opt = stepped(list(model.parameters()))
    average = [opt.state[p]["ema"] for p in (model.weight, model.bias)]
    x = torch.ones(1, 3)
    with opt.ema():
        seen = model(x)
    torch.testing.assert_close(seen, torch.nn.functional.linear(x, *average), rtol=0, atol=0)


def test_before_the_first_update_the_average_is_the_weights():
    params = params_of(SHAPES)
    before = weights(params)
    with made(params).ema():
        assert same_bits(params, before)
    assert same_bits(params, before)


def test_a_step_inside_is_refused_and_changes_nothing():
    params = params_of(SHAPES)
    opt = stepped(params)
    before = everything(opt)
    with opt.ema():
        with pytest.raises(RuntimeError, match=r"inside ema\(\)"):
            opt.step()
        assert opt.position == 3
    assert same_bits(everything(opt), before)


def test_nesting_is_refused_and_the_outer_context_still_restores():
    params = params_of(SHAPES)
    opt = stepped(params)
    before = weights(params)
    with opt.ema():
        with pytest.raises(RuntimeError, match=r"AdamW: .*ema"), opt.ema():
            pass
        assert equal(weights(params), averages(opt, params))
    assert same_bits(params, before)


def test_the_context_may_be_entered_again_and_training_goes_on_after_it():
    a, b = params_of(SHAPES), params_of(SHAPES)
    first, second = made(a), made(b)
    for t in range(4):
        give_grads(a, b, seed=t)
        first.step()
        second.step()
        with first.ema():
            pass
    assert same_bits(everything(first), everything(second))


def test_after_loading_inside_the_context_a_step_there_is_still_refused():
    params = params_of(SHAPES)
    opt = stepped(params)
    saved = copy.deepcopy(opt.state_dict())
    with opt.ema():
        with contextlib.suppress(RuntimeError):  # refusing to load would be an answer too
            opt.load_state_dict(saved)
        with pytest.raises(RuntimeError, match=r"inside ema\(\)"):
            opt.step()


def test_without_ema_decay_the_context_is_refused():
    opt = stepped(params_of(SHAPES), decay=None)
    with pytest.raises(RuntimeError, match=r"AdamW: .*ema_decay"), opt.ema():
        pass


@pytest.mark.parametrize("masters", [False, True])
def test_half_weights_train_on_with_the_same_bits_after_the_context(masters):
    """Masters must not take the averages inside for weights that somebody wrote."""
    a, b = params_of(SHAPES, dtype=torch.bfloat16), params_of(SHAPES, dtype=torch.bfloat16)
    first, second = made(a, master_weights=masters), made(b, master_weights=masters)
    for t in range(4):
        give_grads(a, b, seed=t)
        first.step()
        second.step()
        with first.ema():
            pass
    assert same_bits(everything(first), everything(second))


# ---- buffers


def buffers():
    return [torch.zeros(4), torch.tensor(3), torch.zeros(2, 2, dtype=torch.float64)]


def test_floating_buffers_are_averaged_at_every_update():
    params, held = params_of([(3,)]), buffers()
    opt = made(params, ema_buffers=held)
    expected, numbers = [b.clone() for b in held], torch.Generator().manual_seed(0)
    for t in range(5):
        give_grads(params, seed=t)
        if t > 0:
            held[0].copy_(torch.randn(4, generator=numbers))
            held[2].copy_(torch.randn(2, 2, generator=numbers))
            held[1] += 1
        opt.step()
        expected = [0.75 * e + 0.25 * b for e, b in zip(expected, held, strict=True)]
    with opt.ema():
        # 5 averages of values of size 1
        torch.testing.assert_close(held[0], expected[0], rtol=8 * 2**-24, atol=8 * 2**-24)
        torch.testing.assert_close(held[2], expected[2], rtol=8 * 2**-53, atol=8 * 2**-53)


def test_the_average_of_a_buffer_starts_at_its_value_before_the_first_update():
    """As that of the weights: a model is often loaded after its optimizer was made."""
    params, buffer = params_of([(3,)]), torch.zeros(2)
    opt = made(params, ema_buffers=[buffer])
    buffer.fill_(4.0)
    give_grads(params, seed=0)
    opt.step()
    assert opt.state_dict()["ema_buffers"][0].tolist() == [4.0, 4.0]


def test_other_buffers_are_left_alone():
    params, held = params_of([(3,)]), buffers()
    opt = stepped(params, ema_buffers=held)
    held[1].fill_(7)
    with opt.ema():
        assert held[1].item() == 7


def test_buffers_come_back_to_the_bit_also_after_an_exception():
    params, held = params_of([(3,)]), buffers()
    opt = stepped(params, ema_buffers=held)
    held[0].copy_(torch.arange(4.0))
    before = [b.clone() for b in held]
    with pytest.raises(KeyError), opt.ema():
        raise KeyError
    assert same_bits(held, before)


def test_a_models_buffers_may_be_handed_in_as_an_iterator():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    opt = fs.optim.SGD(model.parameters(), lr=0.1, ema_decay=0.5, ema_buffers=model.buffers())
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        opt.zero_grad()
        model(torch.randn(8, 3, generator=generator)).sum().backward()
        opt.step()
    now = model[1].running_mean.clone()
    with opt.ema():
        assert not torch.equal(model[1].running_mean, now)
        assert model[1].num_batches_tracked.item() == 3


def test_a_skipped_update_leaves_the_averages_of_buffers():
    params, held = params_of([(3,)]), buffers()
    opt = stepped(params, ema_buffers=held, max_grad_norm=1.0)
    before = [b.clone() for b in opt.state_dict()["ema_buffers"]]
    held[0].fill_(9.0)
    params[0].grad[0] = math.nan
    opt.step()
    assert opt.skipped == 1
    assert same_bits(opt.state_dict()["ema_buffers"], before)


def test_buffers_without_a_decay_are_refused():
    with pytest.raises(ValueError, match=r"AdamW: ema_buffers .*ema_decay"):
        fs.optim.AdamW(params_of([(3,)]), ema_buffers=[torch.ones(2)])


def test_a_buffer_that_is_no_tensor_is_refused():
    with pytest.raises((TypeError, ValueError), match=r"AdamW: .*ema_buffers"):
        fs.optim.AdamW(params_of([(3,)]), ema_decay=0.5, ema_buffers=["text"])


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan, "0.9", True, [0.9]], ids=repr)
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises((TypeError, ValueError), match="AdamW: ema_decay must be"):
        fs.optim.AdamW(params_of([(3,)]), ema_decay=decay)


# ---- state


def test_the_state_dict_holds_the_averages_of_floating_buffers():
    opt = stepped(params_of([(3,)]), ema_buffers=buffers())
    assert [b.shape for b in opt.state_dict()["ema_buffers"]] == [(4,), (2, 2)]


def test_without_buffers_the_state_dict_has_torchs_keys_only():
    assert set(stepped(params_of([(3,)])).state_dict()) == {"state", "param_groups"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [0.75, fs.Linear(0.0, 1.0, steps=9)], ids=["number", "schedule"])
def test_a_resumed_run_goes_on_with_the_same_bits(decay, dtype):
    through, split = params_of(SHAPES, dtype=dtype), params_of(SHAPES, dtype=dtype)
    one, two = torch.zeros(4), torch.zeros(4)
    a = stepped(through, decay=decay, ema_buffers=[one])
    b = stepped(split, decay=decay, ema_buffers=[two])
    file = io.BytesIO()
    torch.save(b.state_dict(), file)
    file.seek(0)
    resumed = copies(split)
    c = made(resumed, decay=decay, ema_buffers=[two])
    c.load_state_dict(torch.load(file, weights_only=True))
    for t in range(3, 6):
        give_grads(through, resumed, seed=t)
        for buffer in (one, two):
            buffer.fill_(t)
        a.step()
        c.step()
    assert same_bits(everything(a), everything(c))


def test_a_checkpoint_without_average_starts_it_from_the_weights_it_finds():
    params = params_of(SHAPES)
    old = stepped(params, decay=None)
    loaded = copies(params)
    new = made(loaded)
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    before = weights(loaded)
    give_grads(loaded, seed=9)
    new.step()
    expected = [0.75 * b.double() + 0.25 * p.detach().double() for b, p in zip(before, loaded, strict=True)]
    # one average of values of size 4
    torch.testing.assert_close(averages(new, loaded), [e.float() for e in expected], rtol=2 * 2**-23, atol=2**-23)


def test_an_average_that_a_checkpoint_lacks_starts_from_weights_that_are_loaded_later_too():
    params = params_of([(3,)])
    saved = stepped(params, decay=None).state_dict()
    loaded = params_of([(3,)], seed=9)
    opt = chosen("AdamW", loaded, lr=0.1, ema_decay=1.0)
    opt.load_state_dict(saved)
    with torch.no_grad():
        loaded[0].copy_(params[0])
    give_grads(loaded, seed=0)
    opt.step()
    assert torch.equal(opt.state[loaded[0]]["ema"], params[0])


def test_a_checkpoint_with_average_loads_into_an_optimizer_without_and_into_torchs():
    params = params_of(SHAPES)
    for cls, held in ((fs.optim.AdamW, []), (torch.optim.AdamW, buffers())):
        saved = stepped(params, ema_buffers=held).state_dict()
        new = cls(copies(params))
        new.load_state_dict(copy.deepcopy(saved))
        own = new.param_groups[0]["params"]
        give_grads(own, seed=4)
        new.step()
        assert new.state[own[0]]["step"].item() == 4


def test_a_checkpoint_with_other_buffers_is_refused_and_leaves_everything():
    params = params_of([(3,)])
    saved = stepped(params, ema_buffers=[torch.ones(5)]).state_dict()
    opt = stepped(params, ema_buffers=buffers())
    before = everything(opt)
    with pytest.raises(ValueError, match="ema_buffers"):
        opt.load_state_dict(saved)
    assert same_bits(everything(opt), before)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))], ids=["deepcopy", "pickle"]
)
def test_a_copy_averages_by_itself(copied):
    params = params_of(SHAPES)
    opt = stepped(params, ema_buffers=[torch.ones(2)])
    twin = copied(opt)
    twins = twin.param_groups[0]["params"]
    give_grads(params, twins, seed=5)
    opt.step()
    twin.step()
    assert same_bits(everything(opt), everything(twin))


def test_a_buffer_that_cannot_be_averaged_stops_the_first_step_before_anything_is_made():
    params, buffer = params_of([(3,)]), torch.ones(4)
    opt = made(params, ema_buffers=[buffer])
    buffer.resize_(2)
    params[0].grad = torch.ones(3)
    before = params[0].detach().clone()
    with pytest.raises(ValueError, match="ema_buffers has another shape"):
        opt.step()
    assert len(opt.state) == 0
    assert same_bits([params[0].detach()], [before])
