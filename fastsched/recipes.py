"""Well-known schedules by name, each composed of the kinds: no formula of its own.

``fs.recipes.<name>(...)`` gives a Schedule with peak 1.0, and `about` the settings that its source used with it: base
lr, batch size, optimizer, layer-wise decay. `names` lists them.

>>> from fastsched import recipes
>>> schedule = recipes.bert(steps=1000)
>>> schedule(0), schedule(100), schedule(1000)
(0.0, 1.0, 0.0)
>>> about = recipes.about("mae")
>>> about.lr, about.batch_size, dict(about.layerwise)
(0.002, 1024, {'decay': 0.65, 'weight_decay': 0.05})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, TypeVar

from fastsched._check import LARGEST_STEP, Number, shown
from fastsched.kinds import (
    Constant,
    Cosine,
    CosineRestarts,
    InverseSqrt,
    Linear,
    MultiStep,
    OneCycle,
    WarmupStableDecay,
)
from fastsched.schedule import Schedule

Made = TypeVar("Made", bound=Callable[..., Schedule])


@dataclass(frozen=True)
class About:
    """What the source of a recipe used with it.

    ``task``: what was trained; ``source``: where it is from; ``lr``: the base lr that multiplies the shape (None where
    it depends on the model: `find_lr`), for ``batch_size`` samples or sequences per update (None where the source has
    no single one); ``optimizer``: a name in ``fs.optim``, and ``settings``, its arguments; ``layerwise``: the arguments
    of ``fs.layerwise``, empty where the recipe is not for fine-tuning.
    """

    name: str
    task: str
    source: str
    lr: float | None
    batch_size: int | None
    optimizer: str
    settings: Mapping[str, Any] = field(hash=False)
    layerwise: Mapping[str, Any] = field(hash=False)


_recipes: dict[str, tuple[Callable[..., Schedule], About]] = {}


def _recipe(
    task: str,
    source: str,
    *,
    lr: float | None = None,
    batch_size: int | None = None,
    optimizer: str = "AdamW",
    settings: Mapping[str, Any] | None = None,
    layerwise: Mapping[str, Any] | None = None,
) -> Callable[[Made], Made]:
    """Registers a function as the recipe of its name."""

    def register(function: Made) -> Made:
        name = function.__name__
        kept = [MappingProxyType(dict(given or {})) for given in (settings, layerwise)]
        _recipes[name] = function, About(name, task, source, lr, batch_size, optimizer, *kept)
        return function

    return register


def names() -> tuple[str, ...]:
    """The recipes' names.

    >>> "noam" in names()
    True
    """
    return tuple(_recipes)


def about(name: str) -> About:
    """What the source of a recipe used with it: see `About`.

    Errors: ``ValueError`` for a name that is none, with the closest one.

    >>> about("gpt").settings["betas"]
    (0.9, 0.95)
    """
    return _find(name)[1]


def build(name: str, **arguments: Any) -> Schedule:
    """A recipe by its name, as a config file has it: ``build("bert", steps=1000)`` is ``bert(steps=1000)``.

    Errors: ``ValueError`` for a name that is none; those of the recipe.

    >>> build("bert", steps=1000) == bert(steps=1000)
    True
    """
    return _find(name)[0](**arguments)


def _find(name: str) -> tuple[Callable[..., Schedule], About]:
    if not isinstance(name, str):
        raise TypeError(f"recipes: name must be a string, got {shown(name)}; pass one of {', '.join(_recipes)}")
    if name not in _recipes:
        close = get_close_matches(name, _recipes, 1)
        advice = f"did you mean {close[0]}?" if close else f"pass one of {', '.join(_recipes)}"
        raise ValueError(f"recipes: name must be a known one, got {shown(name)}; {advice}")
    return _recipes[name]


# ---- rules ----

_COUNT = Number("pass how many updates", least=1, most=LARGEST_STEP, whole=True)
_SOME = Number("leave warmup out with 0", least=0, most=LARGEST_STEP, whole=True)


def _whole(who: str, name: str, value: Any, rule: Number = _COUNT) -> int:
    number: int = rule(who, name, value)
    return number


def _rest(who: str, steps: int, warmup: int, unit: str = "updates") -> int:
    """What remains of the training after the warmup."""
    if warmup >= steps:
        raise ValueError(f"{who}: warmup must be shorter than all {steps} {unit}, got {warmup}; pass a shorter one")
    return steps - warmup


def _after_warmup(schedule: Schedule, warmup: int, start: float = 0.0) -> Schedule:
    return schedule.warmup(warmup, start) if warmup else schedule


def _lengths(who: str, steps_per_epoch: Any, epochs: Any, warmup_epochs: Any) -> tuple[int, int, int]:
    """The steps of an epoch, of the warmup and of the rest."""
    each = _whole(who, "steps_per_epoch", steps_per_epoch)
    warmup = _whole(who, "warmup_epochs", warmup_epochs, _SOME)
    rest = _rest(who, _whole(who, "epochs", epochs), warmup, "epochs")
    return each, warmup * each, rest * each


# ---- images ----


@_recipe(
    "ImageNet classification with a ResNet, from scratch",
    "Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017",
    lr=3.2,
    batch_size=8192,
    optimizer="SGD",
    settings={"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
)
def imagenet_resnet(
    steps_per_epoch: int,
    *,
    epochs: int = 90,
    warmup_epochs: int = 5,
    milestones: Sequence[int] = (30, 60, 80),
    batch_size: int = 8192,
) -> Schedule:
    """A ResNet on ImageNet: a line up over 5 epochs, then a tenth at epochs 30, 60 and 80.

    The warmup starts at the rate of a batch of 256, which is ``256 / batch_size`` of the peak; up to 256 there is
    none to see. Base lr: 0.1 per 256 images (3.2 for 8192; ``fs.batch_scaled_lr``). When: convolutional networks with
    SGD, where a run should be comparable with published ones; a cosine usually ends a little better, and needs no
    milestones. Units: ``milestones`` and the lengths count epochs, the schedule updates. Errors: ``ValueError`` if
    the warmup is not over at the first milestone.
    Source: Goyal et al., 2017, section 5.1 (and He et al., Deep Residual Learning, 2015, for the drops).

    >>> s = imagenet_resnet(steps_per_epoch=156)
    >>> s(0), s(5 * 156), round(s(30 * 156), 12), s.steps == 90 * 156
    (0.03125, 1.0, 0.1, True)
    """
    who = "imagenet_resnet"
    each, warmup, rest = _lengths(who, steps_per_epoch, epochs, warmup_epochs)
    batch = _whole(who, "batch_size", batch_size)
    drops = [_whole(who, "milestones", milestone) * each - warmup for milestone in milestones]
    if min(drops, default=0) < 0:
        raise ValueError(
            f"{who}: milestones must not be before the end of the warmup, got {min(milestones)} for {warmup_epochs} "
            "epochs of warmup; count them from the beginning of the training"
        )
    return _after_warmup(MultiStep(milestones=drops, gamma=0.1).head(rest), warmup, start=min(1.0, 256 / batch))


@_recipe(
    "fine-tuning a vision transformer",
    "Dosovitskiy et al., An Image is Worth 16x16 Words, 2021; its code's vit_jax/configs/common.py",
    lr=0.03,
    batch_size=512,
    optimizer="SGD",
    settings={"momentum": 0.9, "max_grad_norm": 1.0},
    layerwise={"decay": 1.0, "weight_decay": 0.0},
)
def vit(steps: int, *, warmup: int = 500) -> Schedule:
    """Fine-tune a supervised vision transformer: 500 updates of warmup, then a cosine to 0.

    The paper takes SGD with momentum, no weight decay, gradients clipped to norm 1, the base lr the best of 0.003,
    0.01, 0.03 and 0.06, 20,000 updates for ImageNet and 10,000 for CIFAR; and no layer-wise decay, so `about` has
    ``decay=1.0``. With AdamW, `mae`'s settings are the usual start. When: the pretraining was supervised and the new
    data are plenty. Errors: ``ValueError`` if the warmup takes all steps.
    Source: Dosovitskiy et al., 2021, appendix B.1.1.

    >>> s = vit(steps=20_000)
    >>> s(0), s(500), s(10_250), s(20_000)
    (0.0, 1.0, 0.5, 0.0)
    """
    who = "vit"
    rise = _whole(who, "warmup", warmup, _SOME)
    return _after_warmup(Cosine(steps=_rest(who, _whole(who, "steps", steps), rise)), rise)


@_recipe(
    "fine-tuning BEiT-base on ImageNet-1k",
    "Bao et al., BEiT: BERT Pre-Training of Image Transformers, 2021; its code's run_class_finetuning.py",
    lr=4e-3,
    batch_size=1024,
    settings={"betas": (0.9, 0.999), "eps": 1e-8},
    layerwise={"decay": 0.65, "weight_decay": 0.05},
)
def beit(steps_per_epoch: int, *, epochs: int = 100, warmup_epochs: int = 20, floor: float = 2.5e-4) -> Schedule:
    """Fine-tune BEiT: warmup from ``floor`` to the peak and a cosine back to ``floor``, with layer-wise decay.

    ``floor`` is the code's 1e-6 as a share of the base lr 4e-3: a ratio of every layer's own rate, as there. The
    warmup reaches the peak one update early and stays for two, as there. BEiT-large: 50 epochs, 5 of warmup, lr 1e-3,
    decay 0.75 (``floor=1e-3``). When: self-supervised vision transformers on new data. Units: the lengths count
    epochs, the schedule updates. Errors: ``ValueError`` if the warmup takes all epochs or one update only.
    Source: Bao et al., 2021, appendix H, and the code's get_started_for_image_classification.md.

    >>> s = beit(steps_per_epoch=1251)
    >>> s(0), s(20 * 1251 - 1), s(20 * 1251), s(100 * 1251)
    (0.00025, 1.0, 1.0, 0.00025)
    """
    who = "beit"
    _, warmup, rest = _lengths(who, steps_per_epoch, epochs, warmup_epochs)
    fall = Cosine(1.0, floor, steps=rest)
    if warmup == 1:
        raise ValueError(f"{who}: warmup must take no update or at least 2, got 1; pass more steps_per_epoch")
    return Constant(1.0, steps=1).then(fall).warmup(warmup - 1, start=floor) if warmup else fall


@_recipe(
    "fine-tuning a masked autoencoder (ViT-B) on ImageNet-1k",
    "He et al., Masked Autoencoders Are Scalable Vision Learners, 2021; its code's FINETUNE.md",
    lr=2e-3,
    batch_size=1024,
    settings={"betas": (0.9, 0.999)},
    layerwise={"decay": 0.65, "weight_decay": 0.05},
)
def mae(steps_per_epoch: int, *, epochs: int = 100, warmup_epochs: int = 5, floor: float = 5e-4) -> Schedule:
    """Fine-tune a masked autoencoder: 5 epochs of warmup from 0, then a cosine to ``floor``, with layer-wise decay.

    ``floor`` is the code's 1e-6 as a share of the base lr 2e-3 (5e-4 per 256 images). ViT-L and ViT-H: 50 epochs, lr
    4e-3, decay 0.75 (``floor=2.5e-4``). When: the first thing to try for fine-tuning any self-supervised vision
    transformer. Units: the lengths count epochs, the schedule updates. Errors: ``ValueError`` if the warmup takes all
    epochs.
    Source: He et al., 2021, table 9, and the code's FINETUNE.md.

    >>> s = mae(steps_per_epoch=1251)
    >>> s(0), s(5 * 1251), s(100 * 1251)
    (0.0, 1.0, 0.0005)
    """
    _, warmup, rest = _lengths("mae", steps_per_epoch, epochs, warmup_epochs)
    return _after_warmup(Cosine(1.0, floor, steps=rest), warmup)


@_recipe(
    "image classification in a tenth of the usual time",
    "Smith and Topin, Super-Convergence, 2018; Smith, A Disciplined Approach to Neural Network Hyper-Parameters, 2018",
    lr=3.0,
    batch_size=1000,
    optimizer="SGD",
    settings={"momentum": 0.9, "weight_decay": 1e-4},
)
def super_convergence(
    steps: int, *, div_factor: float = 10.0, final_div_factor: float = 100.0, cycle: float = 0.9
) -> OneCycle:
    """The 1cycle policy: a line up, a line down of the same length, and a last part far below the start.

    From ``1 / div_factor`` to the peak and back takes ``cycle`` of the steps; the rest falls by another factor of
    ``final_div_factor``. The peak is about the largest rate at which the range test (`find_lr`) still goes down; the
    paper's ResNet-56 ran from 0.1 to 3. ``super_convergence(n).momentum(0.85, 0.95)`` is the momentum that goes with
    it, lowest where the rate is highest: pass it as SGD's ``momentum``. When: short budgets, convolutional networks
    with batch norm; reduce other regularization, since large rates regularize. The form with cosine legs of 30 and
    70 % that torch has is ``fs.OneCycle(steps=n)``. Errors: ``ValueError`` if ``steps < 1``, a factor is not positive
    or ``cycle`` is not in [0, 1].
    Source: Smith and Topin, 2018, section 3.

    >>> s = super_convergence(steps=1000)
    >>> s(0), s(450), s(900), s(1000), s.momentum(0.85, 0.95)(450)
    (0.1, 1.0, 0.1, 0.001, 0.85)
    """
    rule = Number("pass the share of steps that the cycle takes", least=0.0, most=1.0)
    share = rule("super_convergence", "cycle", cycle)
    return OneCycle(
        steps=steps,
        pct_start=share / 2,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        anneal="linear",
        three_phase=True,
    )


@_recipe(
    "CIFAR with a wide ResNet, good at any time",
    "Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017",
    lr=0.05,
    batch_size=128,
    optimizer="SGD",
    settings={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
)
def sgdr(first: int, *, multiplier: int = 2, cycles: int | None = None) -> CosineRestarts:
    """Cosines from 1 to 0 with warm restarts, each cycle ``multiplier`` times as long as the one before.

    ``first`` is the first cycle's length: the paper has 10 epochs and ``multiplier=2`` or 1 epoch and 2. When: the
    time that may be spent is not known, since the model is good at the end of each cycle: ``s.cycle_ends(n)`` are the
    steps at which to save it. It costs one bad stretch after each restart. Units: ``first`` counts updates. Errors:
    those of `CosineRestarts`.
    Source: Loshchilov and Hutter, 2017, section 4.

    >>> s = sgdr(first=10, cycles=3)
    >>> s(0), s(5), s(10), s.steps, s.cycle_ends()
    (1.0, 0.5, 1.0, 70, [10, 30, 70])
    """
    return CosineRestarts(first=first, multiplier=multiplier, cycles=cycles)


@_recipe(
    "CIFAR with a ResNet-110, an ensemble for one training",
    "Huang et al., Snapshot Ensembles: Train 1, Get M for Free, 2017",
    lr=0.2,
    batch_size=64,
    optimizer="SGD",
    settings={"momentum": 0.9, "weight_decay": 1e-4},
)
def snapshots(steps: int, *, cycles: int = 5) -> CosineRestarts:
    """Cycles of equal length from 1 to 0, for an ensemble of the models at their ends.

    A cycle takes ``steps / cycles`` updates, rounded up; ``s.cycle_ends()`` are the steps at which to save a model.
    Average the predictions of the last few, not the weights. When: one run's time, several models' accuracy; a single
    model is better off with one cosine over all steps. Errors: ``ValueError`` if there are fewer steps than cycles.
    Source: Huang et al., 2017, equation 2.

    >>> snapshots(steps=200, cycles=5).cycle_ends()
    [40, 80, 120, 160, 200]
    """
    who = "snapshots"
    total, count = _whole(who, "steps", steps), _whole(who, "cycles", cycles)
    if total < count:
        raise ValueError(f"{who}: steps must be >= cycles, got {total} for {count}; pass fewer cycles")
    return CosineRestarts(first=-(-total // count), cycles=count)


# ---- language ----


@_recipe(
    "fine-tuning BERT",
    "Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2019; transformers' linear schedule",
    lr=3e-5,
    batch_size=32,
    settings={"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "max_grad_norm": 1.0},
    layerwise={"decay": 1.0, "weight_decay": 0.01},
)
def bert(steps: int, *, warmup: int | None = None) -> Schedule:
    """Fine-tune BERT: a line up over a tenth of the updates (rounded down), then a line to 0.

    Base lr: the best of 2e-5, 3e-5 and 5e-5, batches of 16 or 32, 2 to 4 epochs. These are transformers' values; the
    original code lets the descent begin at update 0, so that it jumps to 0.9 where the warmup ends. When: any
    pretrained text encoder; small data sets profit from more epochs rather than from another shape (Mosbach et al.,
    2021). Errors: ``ValueError`` if the warmup takes all steps.
    Source: Devlin et al., 2019, appendix A.3.

    >>> s = bert(steps=1000)
    >>> s(50), s(100), s(550), s(1000)
    (0.5, 1.0, 0.5, 0.0)
    """
    who = "bert"
    total = _whole(who, "steps", steps)
    rise = total // 10 if warmup is None else _whole(who, "warmup", warmup, _SOME)
    return _after_warmup(Linear(1.0, 0.0, steps=_rest(who, total, rise)), rise)


@_recipe(
    "translation with the original Transformer",
    "Vaswani et al., Attention Is All You Need, 2017",
    lr=(512 * 4000) ** -0.5,  # where the shape's peak is 1: the base model's peak
    optimizer="Adam",
    settings={"betas": (0.9, 0.98), "eps": 1e-9},
)
def noam(warmup: int = 4000, *, d_model: int | None = None) -> Schedule:
    """The Transformer's own: a line up over ``warmup`` updates, then the inverse square root of the step.

    The paper counts from 1: update ``t`` has ``d_model**-0.5 * min(n**-0.5, n * warmup**-1.5)`` with ``n = t + 1``, and
    its peak at ``t = warmup - 1``. With ``d_model`` the values are the paper's own, for base lr 1; without, the peak is
    1, for the base lr of `about`. When: transformers whose norms come after the blocks, and runs of open length: it
    has no horizon, but never gets low. In a known number of steps a warmup and a cosine usually end lower. Errors:
    ``ValueError`` if ``warmup`` or ``d_model < 1``.
    Source: Vaswani et al., 2017, section 5.3.

    >>> s = noam(4000)
    >>> s(3999), s(15_999), f"{noam(4000, d_model=512)(3999):.6e}"
    (1.0, 0.5, '6.987712e-04')
    """
    who = "noam"
    rise = _whole(who, "warmup", warmup)
    shape: Schedule = InverseSqrt(timescale=rise)
    if rise > 1:
        shape = shape.warmup(rise - 1, start=1 / rise)
    if d_model is None:
        return shape
    peak: float = (_whole(who, "d_model", d_model) * rise) ** -0.5
    return shape * peak


@_recipe(
    "pretraining a GPT of 125 million parameters",
    "Brown et al., Language Models are Few-Shot Learners, 2020; Touvron et al., LLaMA, 2023 (2000 updates of warmup)",
    lr=6e-4,
    batch_size=244,
    settings={"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "max_grad_norm": 1.0},
)
def gpt(steps: int, *, warmup: int = 2000, floor: float = 0.1) -> Schedule:
    """Pretrain a GPT: a line up, then a cosine to a tenth of the peak, held from there on.

    Base lr by size (GPT-3): 6e-4 for 125 M parameters, 3e-4 for 350 M, 2e-4 for 1.3 B, 1.2e-4 for 6.7 B, 0.6e-4 for
    175 B, for 0.5 to 3.2 M tokens an update. When: the number of tokens is known: the cosine should end with the
    training (Hoffmann et al., 2022); where it is not, use `wsd`. ``fs.Units`` turns tokens into updates. Errors:
    ``ValueError`` if the warmup takes all steps.
    Source: Brown et al., 2020, table 2.1 and appendix B.

    >>> s = gpt(steps=100_000)
    >>> s(1000), s(2000), s(100_000), s(200_000)
    (0.5, 1.0, 0.1, 0.1)
    """
    who = "gpt"
    rise = _whole(who, "warmup", warmup, _SOME)
    return _after_warmup(Cosine(1.0, floor, steps=_rest(who, _whole(who, "steps", steps), rise)), rise)


@_recipe(
    "pretraining a language model for an open number of tokens",
    "Hu et al., MiniCPM, 2024; Haegele et al., Scaling Laws and Compute-Optimal Training, 2024",
    settings={"betas": (0.9, 0.95), "weight_decay": 0.1, "max_grad_norm": 1.0},
)
def wsd(
    steps: int, *, warmup: int | None = None, decay: int | None = None, shape: str = "sqrt", floor: float = 0.0
) -> WarmupStableDecay:
    """Warmup, a long stay at the peak, and a short decay to ``floor`` at the end.

    By default the warmup takes a hundredth of the updates and the decay a fifth, both rounded down (a tenth is enough
    for MiniCPM). ``shape="sqrt"`` is ``1 - sqrt(p)``, the best of Haegele et al. When: runs that may be prolonged, or
    one run for models of several lengths: ``fs.Constant().warmup(w).cooldown(at=t, steps=n, shape="sqrt")`` branches
    off at any ``t``. At equal length it ends where a cosine does; its peak should be somewhat lower than a cosine's.
    Errors: ``ValueError`` if warmup and decay take more than all steps.
    Source: Hu et al., 2024, section 4; Haegele et al., 2024, section 3.

    >>> s = wsd(steps=10_000)
    >>> s(0), s(100), s(8000), s(8500), s(10_000)
    (0.0, 1.0, 1.0, 0.5, 0.0)
    """
    who = "wsd"
    total = _whole(who, "steps", steps)
    rise = total // 100 if warmup is None else _whole(who, "warmup", warmup, _SOME)
    fall = total // 5 if decay is None else _whole(who, "decay", decay, _SOME)
    if rise + fall > total:
        raise ValueError(
            f"{who}: warmup and decay must fit into {total} steps, got {rise} and {fall}; shorten one of them"
        )
    return WarmupStableDecay(warmup=rise, stable=total - rise - fall, decay=fall, shape=shape, end=floor)
