"""Hypothesis drives an optimizer through anything a program may do to it, beside a model in plain Python.

Between updates the model expects everything unchanged to the bit. At an update it works out the next weights and state
from those held so far in float64, compares within the roundings of one update, and goes on with the optimizer's own.
"""

import contextlib
import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from optimizers import RULES, bits, chosen, params_of

import fastsched as fs

SHAPES = [(3,), (2, 2), ()]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EPS32 = torch.finfo(torch.float32).eps
# An update is less than a dozen operations, each of which rounds by half of eps at most.
ROUNDINGS = 8
# The names of a rule's state, in tests/optimizers.py and in torch.
NAMES = {"m": "exp_avg", "v": "exp_avg_sq", "largest": "max_exp_avg_sq", "b": "momentum_buffer"}
EXTRA = ("ema", "master_param")
LOSS_SCALES = st.sampled_from([None, 4.0, 2.0**-3])
SCHEDULES = {
    "none": None,
    "cosine": fs.Cosine(steps=10),
    "warmup": fs.Cosine(steps=8).warmup(3),
    "restarts": fs.CosineRestarts(first=3),
}
WRITABLE = {
    "Adam": {"lr": (0.0, 0.02, 1.0), "weight_decay": (0.0, 0.3), "beta1": (0.0, 0.8), "beta2": (0.0, 0.9)},
    "SGD": {"lr": (0.0, 0.02, 1.0), "weight_decay": (0.0, 0.3), "momentum": (0.0, 0.7)},
}
WRITABLE["AdamW"] = WRITABLE["Lion"] = WRITABLE["Adam"]
OF_RULE = {
    "Adam": st.fixed_dictionaries({"amsgrad": st.booleans(), "maximize": st.booleans()}),
    "SGD": st.sampled_from(
        [
            {},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.25, "maximize": True},
            {"momentum": 0.9, "nesterov": True},
            {"momentum": fs.Linear(0.0, 0.9, steps=4), "dampening": 0.25},
        ]
    ),
    "Lion": st.fixed_dictionaries({"maximize": st.booleans()}),
}
OF_RULE["AdamW"] = OF_RULE["Adam"]


class Group:
    """A group's numbers: what stands there, and what the schedules will say."""

    def __init__(self, schedules, numbers):
        self.schedules, self.numbers = schedules, numbers
        self.written = set()  # by hand, for the next update

    def retime(self, position, keep_written=False):
        for name, value_at in self.schedules.items():
            if not (keep_written and name in self.written):
                self.numbers[name] = value_at(position)
                self.written.discard(name)

    def write(self, name, value):
        self.numbers[name] = value
        if name in self.schedules:
            self.written.add(name)


def is_half(tensor):
    return tensor.dtype in (torch.bfloat16, torch.float16)


def eps_of(*tensors):
    """Of the narrowest type that takes part in the arithmetic; what is smaller than float32 is computed in it."""
    return max(min(torch.finfo(x.dtype).eps, EPS32) for x in tensors)


def exact(tensor):
    return tensor.detach().double().clone()


def same(a, b):
    return a.shape == b.shape and torch.equal(bits(a), bits(b))


def require_near(found, wanted, within, what):
    off = (exact(found) - wanted).abs() - within
    assert bool((off <= 0).all()), f"{what} is off by {off.max().item():.3g} more than its roundings"


class Machine(RuleBasedStateMachine):
    kind = "AdamW"
    lent = None  # the context of ema(), while it is entered

    @initialize(
        schedule=st.sampled_from(sorted(SCHEDULES)),
        of_rule=st.data(),
        decay=st.sampled_from([0.0, 0.1, fs.Linear(0.2, 0.0, steps=5)]),
        first_beta=st.sampled_from([0.9, fs.Linear(0.5, 0.9, steps=4)]),
        options=st.fixed_dictionaries(
            {
                "max_grad_norm": st.sampled_from([None, 1.0]),
                "ema_decay": st.sampled_from([None, 0.5]),
                "zero_grads": st.booleans(),
                "amp": st.booleans(),
                "master_weights": st.booleans(),
            }
        ),
        dtype=st.sampled_from(DTYPES),
    )
    def begin(self, schedule, of_rule, decay, first_beta, options, dtype):
        self.schedule, self.options = SCHEDULES[schedule], options
        arguments = {**of_rule.draw(OF_RULE[self.kind]), "weight_decay": decay}
        if self.kind != "SGD":
            arguments["betas"] = (first_beta, 0.99)
        self.constants = {"amsgrad": False, "maximize": False, "dampening": 0, "nesterov": False, **arguments}
        self.params = params_of(SHAPES[:2], dtype=dtype)
        self.opt = chosen(self.kind, self.params, lr=0.1, schedule=self.schedule, **arguments, **options)
        self.position = self.skipped = 0
        self.groups = [self.group_of(0.1)]
        self.group_of_param = [0, 0]
        self.weights = [exact(p) for p in self.params]
        self.held = [{} for _ in self.params]
        self.saved = []
        self.assigned = set()  # whose state somebody has written into, which the optimizer has not seen yet
        self.found = 0  # the largest step that the optimizer has seen; it looks at its state when it uses it

    # ---- the model

    def group_of(self, lr):
        given = {"lr": lr, "weight_decay": self.constants["weight_decay"]}
        if self.kind == "SGD":
            given["momentum"] = self.constants.get("momentum", 0)
        else:
            given["beta1"], given["beta2"] = self.constants["betas"]
        schedules = {name: value for name, value in given.items() if isinstance(value, fs.schedule.Schedule)}
        if self.schedule is not None:
            schedules["lr"] = Scaled(lr, self.schedule)
        group = Group(schedules, given)
        group.retime(self.position)
        return group

    def state(self, index):
        return self.opt.state.get(self.params[index], {})

    def most_steps(self):
        return max((held.get("t", 0) for held in self.held), default=0)

    def adopt(self, index, by_torch=False):
        """Take the optimizer's own values from here on."""
        self.weights[index] = exact(self.params[index])
        held, state = self.held[index], self.state(index)
        extra = [name for name in EXTRA if not by_torch or name in held]  # what torch has not kept starts anew
        for name in (*(NAMES[short] for short in held if short in NAMES), *extra):
            if name in state:
                held[{torchs: short for short, torchs in NAMES.items()}.get(name, name)] = exact(state[name])

    def start_of(self, index):
        """The weights that an update starts from: the masters, but where somebody has written into the parameter."""
        param, weight = self.params[index], self.weights[index]
        master = self.held[index].get("master_param")
        if not (is_half(param) and self.options["master_weights"]) or master is None:
            return weight
        return torch.where(master.to(param.dtype).double() == weight, master, weight)

    def update(self, index, scale, by_torch=False):
        """One update of one parameter, in float64; compares, and takes over what was found."""
        param, held = self.params[index], self.held[index]
        numbers = self.groups[self.group_of_param[index]].numbers
        lr, decay = numbers["lr"], numbers["weight_decay"]
        start = self.start_of(index)
        grad = exact(self.grads[index]) * scale * (-1 if self.constants["maximize"] else 1)
        coupled = self.kind in ("Adam", "SGD")
        size = grad.abs() + (decay * start.abs() if coupled else 0)
        before = {name: held[name].abs() for name in NAMES if name in held}
        held["t"] = held.get("t", 0) + (not (by_torch and self.kind == "SGD"))  # torch's SGD counts no steps
        change = self.change(grad + (decay * start if coupled else 0), held, numbers)
        wanted = start - (0 if coupled else lr * decay * start) - change
        state = self.state(index)
        tensors = [value for name, value in state.items() if name in NAMES.values() and value is not None]
        within = ROUNDINGS * eps_of(param, *tensors)
        reach, unsure = self.reach(size, before, held, numbers, within)
        slack = within * (start.abs() + reach) + unsure
        rounded = torch.finfo(param.dtype).eps * wanted.abs() + torch.finfo(param.dtype).smallest_normal
        require_near(param, wanted, slack + rounded, "the weight")
        for name in ("m", "v", "largest", "b"):
            if name in held and NAMES[name] in state:
                largest = torch.maximum(
                    before.get(name, held[name].abs()), size**2 if name in ("v", "largest") else size
                )
                require_near(state[NAMES[name]], held[name], within * (largest + held[name].abs()), NAMES[name])
        if not by_torch:
            self.check_copies(index, start, wanted, slack, rounded)
        self.adopt(index, by_torch)

    def change(self, grad, held, numbers):
        lr, betas = numbers["lr"], (numbers.get("beta1"), numbers.get("beta2"))
        fn = RULES[self.kind][0]
        if self.kind == "SGD":
            fixed = {name: self.constants[name] for name in ("dampening", "nesterov")}
            return fn(grad, held, held["t"], lr=lr, momentum=numbers["momentum"], **fixed)
        if self.kind == "Lion":
            return fn(grad, held, held["t"], lr=lr, betas=betas)
        return fn(grad, held, held["t"], lr=lr, betas=betas, eps=1e-8, amsgrad=self.constants["amsgrad"])

    def reach(self, size, before, held, numbers, within):
        """How large the terms of the change are, whose roundings it inherits; and where a sign may go either way."""
        lr = numbers["lr"]
        if self.kind == "SGD":
            return lr * (1 + numbers["momentum"]) * (size + before.get("b", 0.0)), 0.0
        largest = torch.maximum(before.get("m", size), size)
        if self.kind == "Lion":
            old = before.get("m", torch.zeros_like(size))
            fn_margin = within * largest
            near = (old * numbers["beta1"] - (1 - numbers["beta1"]) * size).abs() <= fn_margin
            return lr * torch.ones_like(size), torch.where(near, 2 * lr, 0.0)
        second = held["largest"] if self.constants["amsgrad"] else held["v"]
        denominator = (second / (1 - numbers["beta2"] ** held["t"])).sqrt() + 1e-8
        return lr * largest / (1 - numbers["beta1"] ** held["t"]) / denominator, 0.0

    def check_copies(self, index, start, wanted, slack, rounded):
        state, held, param = self.state(index), self.held[index], self.params[index]
        masters = is_half(param) and self.options["master_weights"]
        if masters:
            require_near(state["master_param"], wanted, slack, "the master weight")
            assert same(state["master_param"].to(param.dtype), param)
        if self.options["ema_decay"] is None:
            assert "ema" not in state
            return
        average = 0.5 * held.get("ema", start) + 0.5 * wanted
        within = slack + (0 if masters else rounded) + ROUNDINGS * EPS32 * average.abs()
        require_near(state["ema"], average, within, "the average")

    def count_update(self):
        self.position += 1
        for group in self.groups:
            group.retime(self.position)

    # ---- gradients and steps

    @rule(seed=st.integers(0, 99), given=st.integers(1, 2**4 - 1), scale=st.sampled_from([1.0, 0.01, 30.0]))
    def give_grads(self, seed, given, scale):
        generator = torch.Generator().manual_seed(seed)
        for index, param in enumerate(self.params):
            drawn = scale * torch.randn(param.shape, generator=generator)
            param.grad = drawn.to(param.dtype) if given >> index % 4 & 1 else None

    # As often as three other rules: what those did shows in updates.
    @precondition(lambda self: self.lent is None)
    @rule(steps=st.integers(1, 4), seed=st.integers(0, 99), given=st.integers(1, 2**4 - 1), loss_scale=LOSS_SCALES)
    def train(self, steps, seed, given, loss_scale):
        for t in range(steps):
            self.give_grads(seed + t, given, 1.0)
            self.step(loss_scale, found=False, closure=False)

    train_longer = train_after_all = train

    @precondition(lambda self: self.options["amp"] or self.options["max_grad_norm"])
    @rule(index=st.integers(0, 9), bad=st.sampled_from([math.nan, math.inf, -math.inf]))
    def spoil_a_gradient(self, index, bad):
        grad = self.params[index % len(self.params)].grad
        if grad is not None:
            grad.view(-1)[-1] = bad

    @rule(to_none=st.booleans())
    def zero_grad(self, to_none):
        self.opt.zero_grad(set_to_none=to_none)
        assert all(p.grad is None or not p.grad.any() for p in self.params)

    @rule(loss_scale=LOSS_SCALES, found=st.booleans(), closure=st.booleans())
    def step(self, loss_scale, found, closure):
        if self.lent is not None:
            self.refuse_step()
            return
        if self.is_probe():  # as torch.distributed.checkpoint makes one before it loads: no update, tested elsewhere
            return
        self.recast(self.assigned)
        before = [None if p.grad is None else p.grad.clone() for p in self.params]
        self.grads = before
        unscale = 1.0
        if self.options["amp"] and loss_scale is not None:
            unscale = 1 / loss_scale
            self.opt.grad_scale, self.opt.found_inf = torch.tensor(loss_scale), torch.tensor(float(found))
        try:
            assert self.opt.step((lambda: "loss") if closure else None) == ("loss" if closure else None)
        finally:
            for left in ("grad_scale", "found_inf"):
                self.opt.__dict__.pop(left, None)
        if any(grad is not None for grad in before):
            self.follow_step(unscale, found and unscale != 1.0)
        self.check_grads(before)
        self.found = self.most_steps()

    def is_probe(self):
        begun = any("t" in held for held in self.held) or any(group.numbers["lr"] for group in self.groups)
        return not begun and not any(p.grad is not None and p.grad.any() for p in self.params)

    def refuse_step(self):
        with pytest.raises(RuntimeError, match="inside ema"):
            self.opt.step()

    def follow_step(self, scale, found):
        given = [exact(grad) for grad in self.grads if grad is not None]
        norm = torch.cat([grad.flatten() for grad in given]).norm().item() * scale
        if self.options["amp"] or self.options["max_grad_norm"]:
            taken = self.opt.grad_norm
            # a sum of squares of a few float64 numbers
            assert (not math.isfinite(norm) and not math.isfinite(taken)) or math.isclose(norm, taken, rel_tol=1e-14)
            found |= not math.isfinite(norm)
        if found:
            self.skipped += 1
            return
        limit = self.options["max_grad_norm"]
        clip = min(1.0, limit / (norm + 1e-6)) if limit else 1.0
        for index, grad in enumerate(self.grads):
            if grad is not None:
                self.update(index, scale * clip)
        self.count_update()

    def check_grads(self, before):
        for param, grad in zip(self.params, before, strict=True):
            if grad is None:
                assert param.grad is None
            elif self.options["zero_grads"]:
                assert not param.grad.any()
            else:
                assert same(param.grad, grad)

    # ---- what people write

    @rule(group=st.integers(0, 9), data=st.data())
    def write_a_hyperparameter(self, group, data):
        group %= len(self.groups)
        name = data.draw(st.sampled_from(sorted(WRITABLE[self.kind])))
        value = data.draw(st.sampled_from(WRITABLE[self.kind][name]))
        self.groups[group].write(name, value)
        held = self.opt.param_groups[group]
        if name.startswith("beta"):
            pair = list(held["betas"])
            pair[name == "beta2"] = value
            other = "beta1" if name == "beta2" else "beta2"
            pair[name != "beta2"] = float(pair[name != "beta2"])
            assert pair[name != "beta2"] == self.groups[group].numbers[other]
            held["betas"] = tuple(pair)
        else:
            held[name] = value

    @precondition(lambda self: self.lent is None)
    @rule(index=st.integers(0, 9), element=st.sampled_from([0.0, -1.5, 0.3]))
    def write_a_weight(self, index, element):
        index %= len(self.params)
        with torch.no_grad():
            self.params[index].view(-1)[0] = element
        self.weights[index] = exact(self.params[index])

    @precondition(lambda self: self.lent is None)
    @rule(index=st.integers(0, 9), dtype=st.sampled_from(DTYPES))
    def move_to_another_dtype(self, index, dtype):
        index %= len(self.params)
        param = self.params[index]
        param.data = param.data.to(dtype)
        self.weights[index] = exact(param)

    @precondition(lambda self: any("t" in held for held in self.held))
    @rule(which=st.integers(0, 9), factor=st.sampled_from([0.5, -2.0]))
    def assign_a_state(self, which, factor):
        started = [index for index, held in enumerate(self.held) if "t" in held]
        index = started[which % len(started)]
        held, state = self.held[index], self.state(index)
        for short in ("m", "b"):
            if short in held:
                state[NAMES[short]] = state[NAMES[short]] * factor
                held[short] = exact(state[NAMES[short]])
        self.assigned.add(index)

    @precondition(lambda self: self.lent is None)
    @rule(index=st.integers(0, 9))
    def delete_a_state(self, index):
        index %= len(self.params)
        self.opt.state.pop(self.params[index], None)
        self.held[index] = {}

    # ---- groups and time

    @precondition(lambda self: len(self.groups) < 4)
    @rule(lr=st.sampled_from([0.0, 0.03, 0.2]), shape=st.sampled_from(SHAPES), dtype=st.sampled_from(DTYPES))
    def add_a_group(self, lr, shape, dtype):
        param = params_of([shape], seed=len(self.params), dtype=dtype)[0]
        self.opt.add_param_group({"params": [param], "lr": lr})
        self.params.append(param)
        self.group_of_param.append(len(self.groups))
        self.groups.append(self.group_of(lr))
        self.weights.append(exact(param))
        self.held.append({})

    @rule(factor=st.sampled_from([0.0, 0.5, 3.0]), group=st.none() | st.integers(0, 9))
    def scale_lr(self, factor, group):
        chosen_groups = self.groups if group is None else [self.groups[group % len(self.groups)]]
        self.opt.scale_lr(factor, None if group is None else group % len(self.groups))
        for scaled in chosen_groups:
            if "lr" in scaled.schedules:
                self.scale_schedule(scaled, factor)
            else:
                scaled.numbers["lr"] *= factor
        for other in self.groups:
            other.retime(self.position, keep_written=True)

    @staticmethod
    def scale_schedule(group, factor):
        shape, base = group.schedules["lr"].shape, group.schedules["lr"].base * factor
        group.schedules["lr"] = Scaled(base, shape)

    @rule(position=st.integers(0, 12) | st.sampled_from([2**24 + 1, 2**31 + 1, 2**53 - 100]))
    def set_the_position(self, position):
        self.opt.position = self.position = position
        for group in self.groups:
            group.retime(position)

    # ---- copies and checkpoints

    # What was written for the next update is not copied; see the test at the end.
    @precondition(lambda self: self.lent is None and not any(group.written for group in self.groups))
    @rule(how=st.sampled_from(["deepcopy", "pickle"]))
    def go_on_with_a_copy(self, how):
        self.opt = copy.deepcopy(self.opt) if how == "deepcopy" else pickle.loads(pickle.dumps(self.opt))
        self.params = [p for group in self.opt.param_groups for p in group["params"]]
        self.skipped = 0
        self.found = self.most_steps()
        self.held = self.all_held()
        self.recast(range(len(self.params)))

    @rule()
    def save(self):
        file = io.BytesIO()
        torch.save(self.opt.state_dict(), file)
        numbers = [dict(group.numbers) for group in self.groups]
        self.saved.append((file.getvalue(), numbers, self.all_held(), [p.shape for p in self.params]))

    @precondition(lambda self: self.saved and self.lent is None)
    @rule(which=st.integers(0, 9))
    def load(self, which):
        file, numbers, held, shapes = self.saved[which % len(self.saved)]
        checkpoint = torch.load(io.BytesIO(file), weights_only=True)
        if shapes != [p.shape for p in self.params]:
            with pytest.raises(ValueError, match=r"group|shape"):
                self.opt.load_state_dict(checkpoint)
            return
        self.opt.load_state_dict(checkpoint)
        self.follow_load(numbers, held)

    def follow_load(self, numbers, held):
        self.skipped = 0
        self.held = copy.deepcopy(held)
        self.recover_position()
        for group, loaded in zip(self.groups, numbers, strict=True):
            group.numbers = dict(loaded)
            group.retime(self.position)
        self.recast(range(len(self.params)))

    def recover_position(self):
        """Where as many updates are loaded as were known, a position that was set by hand stays."""
        if self.most_steps() != self.found:
            self.position = self.found = self.most_steps()

    def recast(self, indices):
        """What is assigned, copied or loaded is held as the parameter's dtype of now wants it, once it is needed."""
        waiting = set()
        for index in indices:
            param, held = self.params[index], self.held[index]
            wide = torch.float64 if param.dtype == torch.float64 else torch.float32
            unused = {"b"} if self.groups[self.group_of_param[index]].numbers.get("momentum") == 0 else set()
            held.update({name: held[name].to(wide).double() for name in held.keys() - {"t"} - unused})
            waiting |= {index} if unused & held.keys() else set()
        self.assigned = waiting

    def all_held(self):
        """A copy, with the averages and masters that start anew at the next update, but are held already."""
        everything = copy.deepcopy(self.held)
        for index, held in enumerate(everything):
            state = self.state(index)
            held.update({name: exact(state[name]) for name in EXTRA if name in state and name not in held})
        return everything

    @precondition(lambda self: self.kind != "Lion" and self.lent is None and not any(is_half(p) for p in self.params))
    @rule(seed=st.integers(0, 99))
    def make_one_update_in_torch(self, seed):
        theirs = [torch.nn.Parameter(p.detach().clone()) for p in self.params]
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": [theirs[i] for i in self.members(number)]}
            for number, group in enumerate(self.opt.param_groups)
        ]
        other = getattr(torch.optim, self.kind)(groups)
        other.load_state_dict(self.opt.state_dict())
        self.held = self.all_held()
        generator = torch.Generator().manual_seed(seed)
        for param in theirs:
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        self.grads = [p.grad for p in theirs]
        other.step()
        numbers = [dict(group.numbers) for group in self.groups]
        with torch.no_grad():
            for param, their in zip(self.params, theirs, strict=True):
                param.copy_(their)
        self.skipped = 0
        self.opt.load_state_dict(other.state_dict())
        for index in range(len(self.params)):
            self.update(index, 1.0, by_torch=True)
            if self.held[index] == {"t": 0} and not self.state(index):  # torch's SGD without momentum keeps nothing
                self.held[index] = {}
        self.recover_position()
        for group, loaded in zip(self.groups, numbers, strict=True):
            group.numbers = loaded
            group.retime(self.position)

    def members(self, number):
        return [index for index, group in enumerate(self.group_of_param) if group == number]

    # ---- averages in the weights' place

    @precondition(lambda self: self.options["ema_decay"] is not None and self.lent is None)
    @rule()
    def enter_the_averages(self):
        self.lent = contextlib.ExitStack()
        self.lent.enter_context(self.opt.ema())
        for index, param in enumerate(self.params):
            average = self.held[index].get("ema")
            assert average is None or torch.equal(average.to(param.dtype), param.detach())

    @precondition(lambda self: self.lent is not None)
    @rule()
    def leave_the_averages(self):
        self.lent.close()
        self.lent = None

    def teardown(self):
        if self.lent is not None:
            self.lent.close()

    # ---- what must hold after everything

    @invariant()
    def the_groups_hold_what_the_next_update_uses(self):
        if not hasattr(self, "groups"):
            return
        assert self.opt.position == self.position
        assert self.opt.skipped == self.skipped
        for group, held in zip(self.groups, self.opt.param_groups, strict=True):
            numbers = dict(held)
            if "betas" in numbers:
                numbers["beta1"], numbers["beta2"] = numbers["betas"]
            assert {name: numbers[name] for name in group.numbers} == group.numbers

    @invariant()
    def nothing_but_an_update_changes_weights_or_state(self):
        if not hasattr(self, "groups"):
            return
        for index, param in enumerate(self.params):
            if self.lent is None:
                assert same(exact(param), self.weights[index])
            state, held = self.state(index), self.held[index]
            assert ("t" in held) == bool(state)
            for short, value in held.items():
                if short == "t":
                    assert state["step"].item() == value
                else:
                    assert same(exact(state[NAMES.get(short, short)]), value), short


class Scaled:
    """A base lr times a schedule."""

    def __init__(self, base, shape):
        self.base, self.shape = base, shape

    def __call__(self, step):
        return self.base * self.shape(step)


def machine(kind):
    case = type(kind, (Machine,), {"kind": kind}).TestCase
    case.settings = settings(stateful_step_count=30)
    return case


TestAdamW = machine("AdamW")
TestAdam = machine("Adam")
TestSGD = machine("SGD")
TestLion = machine("Lion")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_a_copy_keeps_what_was_written_for_the_next_update(copied):
    opt = fs.optim.AdamW(params_of([(2,)]), lr=0.1, schedule=fs.Cosine(steps=9))
    opt.param_groups[0]["lr"] = 0.5
    assert copied(opt).lrs == [0.5]


def test_a_momentum_switched_on_before_a_checkpoint_starts_undampened_after_it():
    params, others = params_of([(2,), (3,)]), params_of([(2,), (3,)])
    opt, resumed = (fs.optim.SGD(p, lr=0.1, dampening=0.25) for p in (params, others))
    for param in params:
        param.grad = torch.ones_like(param)
    opt.step()
    opt.param_groups[0]["momentum"] = 0.9
    params[0].grad = None
    opt.step()  # of the other parameter, and makes the first one's buffer too
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param.data)
    resumed.load_state_dict(opt.state_dict())
    params[0].grad, others[0].grad = torch.ones(2), torch.ones(2)
    opt.step()
    resumed.step()
    assert same(params[0], others[0])
