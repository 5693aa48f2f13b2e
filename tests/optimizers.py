"""What the tests of fastsched.optim share: parameters, gradients, and every update rule in plain torch."""

import contextlib
import math

import pytest
import torch

import fastsched as fs

SHAPES = [(), (1,), (7,), (3, 5), (0, 4), (2, 3, 4), (1000,)]
HALVES = [torch.bfloat16, torch.float16]


# For a test that takes `change`: what puts an 8 x 6 tensor's elements elsewhere in memory.
in_other_strides = pytest.mark.parametrize(
    "change",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x.unfold(0, 2, 2),
        lambda x: x.reshape(4, 2, 3, 2).to(memory_format=torch.channels_last),
        lambda x: x.reshape(4, 2, 3, 2).permute(3, 1, 0, 2),
    ],
    ids=["transposed", "gaps", "unfolded", "channels_last", "permuted"],
)


def params_of(shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.float64 if not dtype.is_complex else torch.complex128
    # through float32 (complex64), so that parameters of the wider dtype start at the same values
    narrow = torch.complex64 if dtype.is_complex else torch.float32
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=drawn).to(narrow).to(dtype))
        for shape in shapes
    ]


def give_grads(*models, seed, scale=1.0):
    """The same random gradients to every list of parameters."""
    generator = torch.Generator().manual_seed(seed)
    for same in zip(*models, strict=True):
        drawn = torch.complex64 if same[0].is_complex() else torch.float32
        grad = scale * torch.randn(same[0].shape, generator=generator, dtype=drawn)
        for p in same:
            p.grad = grad.to(p.dtype, copy=True)


def weights(params):
    return [p.detach().clone() for p in params]


def copies(params, dtype=None):
    """New parameters with the same values, in the same memory format."""
    return [torch.nn.Parameter(p.detach().to(dtype or p.dtype, copy=True)) for p in params]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor):
    """The bit patterns, so that NaN equals NaN and 0 differs from -0."""
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    return real.contiguous().view(_WORDS[real.element_size()])


def same_bits(a, b):
    return all(x.dtype == y.dtype and torch.equal(bits(x), bits(y)) for x, y in zip(a, b, strict=True))


def everything(opt):
    """Copies of all that an update may change: weights, state and averaged buffers."""
    params = [p for group in opt.param_groups for p in group["params"]]
    held = [value.detach().clone() for p in params for _, value in sorted(opt.state.get(p, {}).items())]
    buffers = [value.clone() for value in opt.state_dict().get("ema_buffers", [])]
    return weights(params) + held + buffers


def rms(params, exact):
    difference = torch.cat([(p.double() - e).flatten() for p, e in zip(params, exact, strict=True)])
    return difference.pow(2).mean().sqrt().item()


@contextlib.contextmanager
def machine(isa=None, threads=None):
    """An instruction set and a number of threads, for a while."""
    held, held_threads = fs._core.isa(), torch.get_num_threads()
    try:
        fs._core.use_isa(isa or held)
        torch.set_num_threads(threads or held_threads)
        yield
    finally:
        fs._core.use_isa(held)
        torch.set_num_threads(held_threads)


# ---- the update rules: what is subtracted, from a gradient g, the state held so far and the number of updates t


def adam(g, held, t, *, lr, betas, eps, amsgrad=False):
    """Kingma & Ba 2015, algorithm 1; amsgrad as in torch: the largest second moment before bias correction."""
    beta1, beta2 = betas
    m = held["m"] = beta1 * held.get("m", 0.0) + (1 - beta1) * g
    v = held["v"] = beta2 * held.get("v", 0.0) + (1 - beta2) * g * g
    if amsgrad:
        v = held["largest"] = torch.maximum(held.get("largest", v), v)
    return lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)


def sgd(g, held, _, *, lr, momentum=0.0, dampening=0.0, nesterov=False):
    """torch.optim.SGD's documentation: the buffer starts as the first gradient, undampened."""
    if momentum == 0:
        return lr * g
    b = held["b"] = momentum * held["b"] + (1 - dampening) * g if "b" in held else g.clone()
    return lr * (g + momentum * b if nesterov else b)


def lion(g, held, _, *, lr, betas):
    """Chen et al. 2023 (arXiv 2302.06675), algorithm 2."""
    beta1, beta2 = betas
    m = held.get("m", torch.zeros_like(g))
    held["m"] = beta2 * m + (1 - beta2) * g
    return lr * (beta1 * m + (1 - beta1) * g).sign()


_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
RULES = {
    "AdamW": (adam, {**_ADAM, "weight_decay": 1e-2, "weight_decay_mode": "decoupled"}),
    "Adam": (adam, {**_ADAM, "weight_decay": 0.0, "weight_decay_mode": "l2"}),
    "SGD": (sgd, {"lr": 1e-3, "weight_decay": 0.0, "weight_decay_mode": "l2"}),
    "Lion": (lion, {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0, "weight_decay_mode": "decoupled"}),
}


class Plain:
    """One group of parameters and one of RULES, in plain torch and the parameters' own dtype.

    Change `options` between steps for schedules; `base_lr` and `max_lr` are what weight decay compares lr with.
    """

    def __init__(self, rule, params, **options):
        self.update, defaults = RULES[rule]
        self.params = list(params)
        options = {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
        if options.pop("decoupled_weight_decay", False):
            options["weight_decay_mode"] = "decoupled"
        self.options = {**defaults, "maximize": False, **options}
        self.base_lr = self.max_lr = self.options["lr"]
        self.held = [{"t": 0} for _ in self.params]

    @torch.no_grad()
    def step(self):
        options = dict(self.options)
        mode, decay, maximize = (options.pop(key) for key in ("weight_decay_mode", "weight_decay", "maximize"))
        lr = options["lr"]
        rate = {
            "l2": 0.0,
            "decoupled": lr,
            "cautious": lr,
            "composer": lr / self.base_lr,
            "timm": lr**2 / self.max_lr,
        }[mode]
        for param, held in zip(self.params, self.held, strict=True):
            if param.grad is None:
                continue
            p, g = (torch.view_as_real(x) if x.is_complex() else x for x in (param, param.grad))
            g = -g if maximize else g
            if mode == "l2" and decay != 0:  # 0 times infinity would be NaN
                g = g + decay * p
            held["t"] += 1
            update = self.update(g, held, held["t"], **options)
            shrunk = rate * decay * p if rate * decay != 0 else torch.zeros_like(p)
            if mode == "cautious":
                shrunk = torch.where(update * p >= 0, shrunk, 0.0)
            p.copy_(p - shrunk - update)


def chosen(rule, params, **options):
    """The fused optimizer of that name."""
    return getattr(fs.optim, rule)(params, **options)


# ---- chance

# Two-sided: a fair draw lies farther than this many standard deviations off once in 1.7 million tests.
SIGMAS = 5


def plausible(hits, draws, probability):
    """Whether that many hits are believable where each draw hits with that probability."""
    deviation = math.sqrt(draws * probability * (1 - probability))
    return abs(hits - draws * probability) <= SIGMAS * deviation
