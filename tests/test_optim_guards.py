"""Whatever a step is handed, it answers as torch would or with an error that names the fix, and changes nothing."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastsched as fs


def param(*shape, **kwargs):
    return torch.nn.Parameter(torch.ones(*shape, **kwargs))


def ready(*params, **kwargs):
    """An optimizer that has made one update with unit gradients."""
    for p in params:
        p.grad = torch.ones_like(p)
    opt = fs.optim.AdamW(params, lr=0.1, **kwargs)
    opt.step()
    return opt


def snapshot(opt):
    return (
        copy.deepcopy(opt.state_dict()),
        [p.detach().clone() for g in opt.param_groups for p in g["params"]],
        opt.position,
    )


def assert_untouched(opt, before):
    state, params, position = snapshot(opt)
    assert position == before[2]
    assert all(torch.equal(a, b) for a, b in zip(params, before[1], strict=True))
    for index, held in before[0]["state"].items():
        assert all(torch.equal(state["state"][index][key], value) for key, value in held.items())


def refused(opt, error, match):
    before = snapshot(opt)
    with pytest.raises(error, match=match):
        opt.step()
    assert_untouched(opt, before)


# ---- at construction


def fake():
    with FakeTensorMode():
        return torch.nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: torch.nn.Parameter(torch.ones(3, dtype=torch.int64), False), "must be float32, .*, got torch.int64"),
        (lambda: torch._neg_view(torch.ones(3)).requires_grad_(), "must not be a negated or conjugated view"),
        (lambda: param(3, device="meta"), "must be in CPU memory or on a CUDA device, got device meta"),
        (lambda: torch.nn.Parameter(torch.ones(3).to_sparse()), "must be dense"),
        (lambda: torch.nn.Parameter(torch.ones(1).expand(3)), "must hold every element once, but its elements overlap"),
        (fake, "must have memory of its own, got a FakeTensor"),
    ],
    ids=["int64", "negated", "meta", "sparse", "expanded", "fake"],
)
def test_a_parameter_that_cannot_be_updated_is_refused_at_construction(make, match):
    with pytest.raises(ValueError, match=f"AdamW: group 0, parameter 1: {match}"):
        fs.optim.AdamW([param(2), make()])


def test_a_refused_group_is_not_added():
    opt = ready(param(2))
    with pytest.raises(ValueError, match="must be in CPU memory or on"):
        opt.add_param_group({"params": [param(2, device="meta")]})
    assert len(opt.param_groups) == 1
    opt.step()


def test_a_dtensor_as_gradient_of_a_plain_parameter_is_refused(tmp_path):
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))

        class Mixed(torch.nn.Parameter):
            grad = DTensor.from_local(torch.ones(3), mesh, [Replicate()])

        opt = fs.optim.AdamW([Mixed(torch.ones(3))])
        with pytest.raises(ValueError, match=r"gradient lies on the device mesh .*, the parameter on none"):
            opt.step()
    finally:
        dist.destroy_process_group()


# ---- gradients


def test_a_sparse_gradient_is_refused_with_torchs_words():
    p = param(4, 2)
    opt = ready(p)
    p.grad = torch.ones(4, 2).to_sparse()
    refused(opt, RuntimeError, "AdamW does not support sparse gradients")


def test_a_gradient_of_a_stale_shape_is_refused():
    p = param(4)
    opt = fs.optim.AdamW([p])
    p.grad = torch.ones(4)
    p.data = torch.ones(5)
    refused(opt, ValueError, r"gradient has shape \(4,\), the parameter \(5,\)")


def test_a_gradient_of_a_stale_kind_is_refused():
    p = param(4)
    opt = ready(p)
    p.data = torch.ones(4, dtype=torch.complex64)
    refused(opt, ValueError, "gradient is torch.float32, the parameter torch.complex64")


def test_a_parameter_of_a_new_dtype_is_updated_in_it():
    p, q = param(4), param(4, dtype=torch.float64)
    opt = ready(p)
    p.data = torch.ones(4, dtype=torch.float64)
    del opt.state[p]
    p.grad = torch.full((4,), 0.1, dtype=torch.float64)
    opt.step()
    q.grad = p.grad.clone()
    fs.optim.AdamW([q], lr=0.1).step()
    assert torch.equal(p, q)


def test_a_resized_parameter_whose_state_is_of_the_old_shape_is_refused():
    p = param(4)
    opt = ready(p)
    p.grad = None
    p.data = torch.ones(6)
    p.grad = torch.ones(6)
    refused(opt, ValueError, r"shape \(6,\) now, its state \(4,\)")


def test_after_its_state_was_deleted_a_resized_parameter_starts_anew():
    p = param(4)
    opt = ready(p)
    p.grad = None
    p.data = torch.ones(6)
    p.grad = torch.ones(6)
    del opt.state[p]
    opt.step()
    assert opt.state[p]["exp_avg"].shape == (6,)


def test_a_freed_storage_is_refused():
    p = param(4)
    opt = ready(p)
    p.untyped_storage().resize_(0)
    before = opt.position
    with pytest.raises(ValueError, match="must have memory of its own"):
        opt.step()
    assert opt.position == before


def test_a_freed_gradient_storage_is_refused():
    p = param(4)
    opt = ready(p)
    p.grad.untyped_storage().resize_(0)
    before = [t.clone() for t in (p.detach(), opt.state[p]["exp_avg"])]
    with pytest.raises(ValueError, match="gradient: must have memory of its own"):
        opt.step()
    assert all(map(torch.equal, before, (p.detach(), opt.state[p]["exp_avg"])))


def test_one_bad_gradient_among_many_leaves_the_others_unchanged():
    many = [param(3) for _ in range(5)]
    opt = ready(*many)
    many[3].grad = torch.ones(3).to_sparse()
    refused(opt, RuntimeError, "group 0, parameter 3")


def test_state_storage_cannot_be_taken_away():
    p = param(4)
    opt = ready(p)
    with pytest.raises(RuntimeError, match="not resizable"):
        opt.state[p]["exp_avg"].untyped_storage().resize_(0)
    opt.step()


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq", "step"])
def test_state_of_another_shape_is_refused(key):
    p = param(4)
    opt = ready(p)
    opt.state[p][key] = torch.ones(7)
    with pytest.raises(ValueError, match=rf"state '{key}' has shape \(7,\)"):
        opt.step()


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
@pytest.mark.host
def test_a_step_count_that_is_no_count_is_refused(bad):
    p = param(4)
    opt = ready(p)
    opt.state[p]["step"] = torch.tensor(bad)
    with pytest.raises(ValueError, match="step must be"):
        opt.step()
    opt.state[p]["step"] = torch.tensor(1.0)
    opt.step()
    opt.state[p]["step"].fill_(bad)
    with pytest.raises(ValueError, match="step must be"):
        opt.step()


@pytest.mark.parametrize("key", ["lr", "eps", "weight_decay", "betas"])
@pytest.mark.parametrize("value", ["no number", None, [0.9], object()])
def test_a_hyperparameter_that_is_no_number_is_refused(key, value):
    p = param(4)
    opt = ready(p)
    held = opt.param_groups[0][key]
    opt.param_groups[0][key] = value
    before = p.detach().clone()
    for _ in range(2):  # the refusal is not forgotten
        with pytest.raises(TypeError, match=f"group 0: {key} must be"):
            opt.step()
    assert torch.equal(p, before)
    opt.param_groups[0][key] = held
    opt.step()


@pytest.mark.parametrize("key", ["lr", "eps", "weight_decay", "betas", "params"])
def test_a_missing_hyperparameter_is_refused(key):
    opt = ready(param(4))
    del opt.param_groups[0][key]
    with pytest.raises(TypeError, match=f"group 0: {key} must be"):
        opt.step()


@pytest.mark.parametrize("attribute", ["param_groups", "state"])
@pytest.mark.parametrize("value", [None, 3, "text", ()])
def test_containers_of_another_type_are_refused(attribute, value):
    opt = ready(param(4))
    setattr(opt, attribute, value)
    with pytest.raises(TypeError, match=f"{attribute}: must be a"):
        opt.step()


@pytest.mark.parametrize("stranger", ["text", None, 3, object()])
def test_a_stranger_among_the_parameters_is_refused(stranger):
    opt = ready(param(4))
    opt.param_groups[0]["params"].append(stranger)
    with pytest.raises((TypeError, AttributeError)):
        opt.step()


class Impostor:
    """Has a gradient, is no tensor."""

    grad = torch.ones(3)
    layout = torch.strided
    dtype = torch.float32
    device = torch.device("cpu")
    shape = (3,)


def test_an_impostor_with_a_gradient_is_refused():
    opt = ready(param(4))
    opt.param_groups[0]["params"].append(Impostor())
    with pytest.raises((TypeError, ValueError)):
        opt.step()


def test_a_parameter_whose_gradient_is_no_tensor_is_refused():
    class Odd(torch.nn.Parameter):
        @property
        def grad(self):
            return "text"

    opt = fs.optim.AdamW([Odd(torch.ones(3))])
    with pytest.raises((TypeError, ValueError, AttributeError)):
        opt.step()


class Meddler:
    """A number whose reading runs code."""

    def __init__(self, value, meddle):
        self.value, self.meddle = value, meddle

    def __float__(self):
        self.meddle()
        return self.value


@pytest.mark.parametrize("key", ["lr", "eps"])
def test_an_interrupt_while_a_number_is_read_stays_one_and_nothing_changes(key):
    def interrupt():
        raise KeyboardInterrupt

    opt = ready(param(3))
    before = snapshot(opt)
    held = opt.param_groups[0][key]
    opt.param_groups[0][key] = Meddler(0.5, interrupt)
    with pytest.raises(KeyboardInterrupt):
        opt.step()
    opt.param_groups[0][key] = held
    assert_untouched(opt, before)


@pytest.mark.parametrize(
    "meddle",
    [
        lambda opt: opt.param_groups.clear(),
        lambda opt: opt.param_groups[0].clear(),
        lambda opt: opt.param_groups[0]["betas"].clear(),
        lambda opt: opt.param_groups[0]["params"].clear(),
        lambda opt: opt.state.clear(),
    ],
)
@pytest.mark.parametrize("key", ["lr", "eps", "betas"])
def test_a_number_that_meddles_with_the_groups_gives_an_error_or_a_step_but_no_crash(key, meddle):
    opt = ready(*(param(3) for _ in range(4)))
    opt.add_param_group({"params": [param(3)]})
    group = opt.param_groups[0]
    group["betas"] = [0.9, 0.99]
    number = Meddler(0.5, lambda: meddle(opt))
    group[key] = [number, Meddler(0.5, lambda: None)] if key == "betas" else number
    for _ in range(2):
        with contextlib.suppress(TypeError, RuntimeError, KeyError, ValueError, AttributeError, IndexError):
            opt.step()


def test_a_gradient_whose_reading_frees_another_parameter_is_noticed():
    first = param(4)
    first.grad = torch.ones(4)

    class Freeing(torch.nn.Parameter):
        @property
        def grad(self):
            first.untyped_storage().resize_(0)
            return torch.ones(3)

    opt = fs.optim.AdamW([first, Freeing(torch.ones(3))])
    with pytest.raises(ValueError, match="must have memory of its own"):
        opt.step()


def test_a_step_within_a_step_is_refused():
    class Nested(torch.nn.Parameter):
        @property
        def grad(self):
            opt.step()

    opt = fs.optim.AdamW([param(2)])
    opt.param_groups[0]["params"].append(Nested(torch.ones(3)))
    with pytest.raises(RuntimeError, match="already running"):
        opt.step()


@pytest.mark.parametrize("argument", [None, 3, "text", object(), [torch.ones(2)]])
def test_the_engine_refuses_an_owner_that_is_no_optimizer(argument):
    engine = fs._core.Engine(rule="adam")
    for call in (engine.step, engine.bind):
        with pytest.raises((TypeError, AttributeError)):
            call(argument)
    with pytest.raises((TypeError, AttributeError)):
        engine.move_to(argument, 0)


@pytest.mark.parametrize("kind", ["Row", "Program", "Engine"])
def test_an_object_that_no_constructor_has_seen_does_not_crash(kind):
    cls = getattr(fs._core, kind)
    for _ in range(20):
        empty = cls.__new__(cls)
        for name in ("__len__", "at", "table", "value", "values", "step", "bind", "move_to"):
            if hasattr(empty, name):
                method = getattr(empty, name)
                for arguments in ((), (0.0,), (0.0, np.empty(3)), (0, np.empty((3, 3))), (ready(param(2)),)):
                    with contextlib.suppress(Exception):
                        method(*arguments)


def test_a_gradient_whose_methods_free_another_parameter_is_noticed():
    first, second = param(4), param(3)

    class Freeing(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is torch.Tensor.is_neg:
                first.untyped_storage().resize_(0)
            return super().__torch_function__(func, types, args, kwargs or {})

    first.grad = torch.ones(4)
    second.grad = torch.ones(3).as_subclass(Freeing)
    opt = fs.optim.AdamW([first, second])
    with pytest.raises(ValueError, match="must have memory of its own"):
        opt.step()


@pytest.mark.parametrize("position", [-1, 2**53 + 1])
def test_the_engine_refuses_a_position_out_of_range(position):
    opt = ready(param(2))
    with pytest.raises(ValueError, match="position must be in"):
        opt._engine.move_to(opt, position)


def test_the_engine_refuses_a_row_that_is_no_row_or_of_another_length():
    opt = ready(param(2))
    with pytest.raises(TypeError, match="rows must hold Rows, got str"):
        opt._engine.move_to(opt, 0, {"lr": "text"})
    row = fs.Plan([{"lr": 1.0}] * 3, fs.Constant())._row("lr")
    with pytest.raises(ValueError, match="one entry per group"):
        opt._engine.move_to(opt, 0, {"lr": row})


@pytest.mark.parametrize("mode", ["composer", "timm"])
def test_a_group_that_was_appended_by_hand_is_refused_where_decay_needs_its_base(mode):
    opt = ready(param(3), weight_decay_mode=mode)
    opt.param_groups.append({**opt.param_groups[0], "params": [param(2)]})
    with pytest.raises(ValueError, match="param_groups has 2 groups, the schedule another number"):
        opt.step()


@pytest.mark.parametrize(
    ("option", "error", "match"),
    [
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm must be > 0"),
        ({"max_grad_norm": "1"}, TypeError, "max_grad_norm must be a number"),
        ({"max_grad_norm": 1.0, "max_grad_value": 1.0}, ValueError, "cannot clip together"),
        ({"norm_type": 3}, ValueError, "norm_type must be 1, 2 or inf, got 3"),
        ({"norm_type": [2]}, ValueError, "norm_type must be 1, 2 or inf"),
        ({"ema_decay": 1.5}, ValueError, "ema_decay must be <= 1"),
        ({"ema_buffers": []}, ValueError, "ema_buffers needs ema_decay"),
        ({"ema_decay": 0.5, "ema_buffers": [1]}, TypeError, "ema_buffers must be tensors, got 1 at 0"),
        ({"zero_grads": 1}, TypeError, "zero_grads must be True or False"),
        ({"amp": None}, TypeError, "amp must be True or False"),
        ({"weight_decay_mode": "L2"}, ValueError, "weight_decay_mode must be a known one, got 'L2'"),
        ({"state_dtype": torch.float16}, ValueError, "state_dtype must be torch.float32 or torch.bfloat16"),
        ({"state_dtype": ["bfloat16"]}, TypeError, "state_dtype must be a torch.dtype or None"),
        ({"seed": -1}, ValueError, "seed must be >= 0"),
        ({"clip": 1.0}, TypeError, "unexpected argument 'clip'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Lion"])
def test_an_option_out_of_range_is_refused_at_construction(name, option, error, match):
    with pytest.raises(error, match=f"{name}: .*{match}"):
        getattr(fs.optim, name)([param(3)], **option)
