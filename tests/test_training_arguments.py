"""What transformers.Trainer makes of its TrainingArguments, through fs.compile: the same weights, logs and checkpoints.

Every run is made twice: with the optimizer and the scheduler that the arguments name, and with their compiled twins.
"""

import math

import pytest
import torch
from test_frameworks import NAMES, fresh_accelerate
from torch import nn

import fastsched as fs

UPDATES = 6
LR = 0.01
# Weights of a few units after six updates of at most LR each: float32 rounding, four times over.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
# A gradient may round to the number next door, 2**-8 off in bfloat16 and 2**-11 in float16.
BFLOAT16 = {"rtol": 0, "atol": UPDATES * LR * 2**-8}
FLOAT16 = {"rtol": 0, "atol": UPDATES * LR * 2**-11}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def transformers():
    module = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    with fresh_accelerate():
        yield module


class Tagger(nn.Module):
    """Every kind of parameter that TrainingArguments tells apart; the loss of the batches in `bad` is infinite.

    None of its gradients is 0 in theory: of those, Adam would make whole updates out of rounding errors.
    """

    def __init__(self, bad=()):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(16, 8)
        self.hidden = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)
        self.bad, self.calls = bad, 0

    def forward(self, input_ids, labels):
        logits = self.head(self.norm(torch.tanh(self.hidden(self.embedding(input_ids).mean(1)))))
        loss = nn.functional.cross_entropy(logits, labels)
        if self.calls in self.bad:
            loss = loss * math.inf
        self.calls += 1
        return {"loss": loss, "logits": logits}


def sentences(count):
    generator = torch.Generator().manual_seed(2)
    return [
        {"input_ids": torch.randint(0, 16, (5,), generator=generator), "labels": torch.tensor(i % 3)}
        for i in range(count)
    ]


class Run:
    """A Trainer on a new model, and the learning rates and the weights of each of its updates."""

    def __init__(self, transformers, folder, way, *, cls=None, bad=(), **arguments):
        self.lrs, self.weights = [], []
        self.model = Tagger(bad)
        run = self

        class Keep(transformers.TrainerCallback):
            def on_step_begin(self, args, state, control, *, optimizer, **_):
                run.lrs.append([group["lr"] for group in optimizer.param_groups])

            def on_step_end(self, args, state, control, *, model, **_):
                run.weights.append([p.detach().clone() for p in model.parameters()])

        settings = {
            "output_dir": str(folder),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "max_steps": UPDATES,
            "logging_steps": 1,
            "save_strategy": "no",
            **arguments,
        }
        self.cls = cls or transformers.Trainer
        self.arguments = {
            "model": self.model,
            "args": transformers.TrainingArguments(**settings),
            "train_dataset": sentences(48),
            "eval_dataset": sentences(6),
            "callbacks": [Keep()],
        }
        self.trainer = way(self)
        self.trainer.remove_callback(transformers.PrinterCallback)

    def train(self, resume=None):
        self.trainer.train(resume_from_checkpoint=resume)
        return self

    def optimizer(self):
        return self.trainer.optimizer.optimizer  # of Accelerate's wrapper

    def logs(self):
        """What was logged, without the clock."""
        return [
            {key: value for key, value in entry.items() if "runtime" not in key and "per_second" not in key}
            for entry in self.trainer.state.log_history
        ]


def as_it_is(run):
    return run.cls(**run.arguments)


def of_the_pair(run):
    """The pair that one Trainer makes, compiled and handed to another."""
    maker = run.cls(**run.arguments)
    maker.create_optimizer_and_scheduler(num_training_steps=UPDATES)
    return run.cls(**run.arguments, optimizers=fs.compile(maker.optimizer, maker.lr_scheduler))


def of_create_optimizer(run):
    """A Trainer that compiles its optimizer, and drives it by the scheduler that it makes itself."""

    class Compiled(run.cls):
        def create_optimizer(self, *args):
            if self.optimizer is None:
                self.optimizer, _ = fs.compile(super().create_optimizer(*args))
            return self.optimizer

    return Compiled(**run.arguments)


every_way = pytest.mark.parametrize("way", [of_the_pair, of_create_optimizer])


def assert_same_logs(ours, theirs, tolerance):
    """Learning rates exactly, losses and norms within what the weights may differ by, several times over."""
    bound = 10 * max(tolerance.values())
    for our_entry, their_entry in zip(ours, theirs, strict=True):
        assert our_entry == pytest.approx(their_entry, rel=bound, abs=bound, nan_ok=True)
        assert our_entry.get("learning_rate") == their_entry.get("learning_rate")


def assert_same(ours, theirs, *, since=0, tolerance=CLOSE):
    """Learning rates exactly, and weights and logs within rounding."""
    lrs, weights = theirs.lrs[since:], theirs.weights[since:]
    assert len(lrs) == UPDATES - since
    assert not torch.equal(weights[0][0], weights[-1][0])
    assert isinstance(ours.optimizer(), fs.optim.AdamW | fs.optim.SGD)
    assert ours.lrs == lrs
    torch.testing.assert_close(ours.weights, weights, **tolerance)
    assert_same_logs(ours.logs(), theirs.logs(), tolerance)


# ---- arguments

ARGUMENTS = {
    "defaults": {},
    "learning_rate": {"learning_rate": LR},
    "epochs": {"learning_rate": LR, "max_steps": -1, "num_train_epochs": 1},
    "accumulation": {"learning_rate": LR, "gradient_accumulation_steps": 3},
    "betas and epsilon": {"learning_rate": LR, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-3},
    "weight_decay": {"learning_rate": LR, "weight_decay": 0.3},
    "clip": {"learning_rate": LR, "max_grad_norm": 0.5},
    "no clip": {"learning_rate": LR, "max_grad_norm": 0.0},
    "warmup, a share": {"learning_rate": LR, "warmup_steps": 0.4},
    "adamw_torch": {"learning_rate": LR, "optim": "adamw_torch"},
    "sgd": {"learning_rate": 0.1, "optim": "sgd"},
    "sgd with arguments": {
        "learning_rate": 0.1,
        "optim": "sgd",
        "optim_args": "momentum=0.9,nesterov=true,weight_decay=0.1",
    },
    "evaluation": {"learning_rate": LR, "eval_strategy": "steps", "eval_steps": 2},
    "the best model": {
        "learning_rate": LR,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
    },
}


def both(names, some):
    """Every name with a compiled pair, and some where the Trainer's own scheduler drives the compiled optimizer."""
    return pytest.mark.parametrize(
        ("way", "name"), [(of_the_pair, name) for name in names] + [(of_create_optimizer, name) for name in some]
    )


@both(ARGUMENTS, ["defaults", "accumulation", "clip", "sgd with arguments", "the best model"])
def test_the_arguments_mean_what_they_mean_without_compile(transformers, tmp_path, once, way, name):
    ours = Run(transformers, tmp_path / "ours", way, **ARGUMENTS[name]).train()
    theirs = once(name, lambda: Run(transformers, tmp_path / "theirs", as_it_is, **ARGUMENTS[name]).train())
    assert_same(ours, theirs)


@every_way
def test_bfloat16_is_that_of_the_arguments(transformers, tmp_path, once, way):
    settings = {"learning_rate": LR, "bf16": True}
    ours = Run(transformers, tmp_path, way, **settings).train()
    theirs = once("bf16", lambda: Run(transformers, tmp_path, as_it_is, **settings).train())
    assert_same(ours, theirs, tolerance=BFLOAT16)


@both(NAMES, ["linear", "reduce_lr_on_plateau", "greedy"])
def test_every_scheduler_of_the_arguments_is_the_same(transformers, tmp_path, once, way, name):
    settings = {
        "learning_rate": LR,
        "lr_scheduler_type": name,
        "lr_scheduler_kwargs": NAMES[name],
        "warmup_steps": 2,
        "eval_strategy": "steps",  # what reduce_lr_on_plateau and greedy look at
        "eval_steps": 1,
    }
    ours = Run(transformers, tmp_path, way, **settings).train()
    theirs = once(name, lambda: Run(transformers, tmp_path, as_it_is, **settings).train())
    assert_same(ours, theirs)


@pytest.mark.parametrize("optim", ["adafactor", "rmsprop"])
def test_an_optimizer_without_a_twin_is_named_and_stays_in_use(transformers, tmp_path, optim):
    run = Run(transformers, tmp_path, as_it_is, learning_rate=LR, optim=optim)
    run.trainer.create_optimizer()
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.AdamW, Adam or SGD.*ScheduleLR drives"):
        fs.compile(run.trainer.optimizer)
    assert len(run.train().lrs) == UPDATES


# ---- float16, with the scaler that Accelerate has on a GPU


def scaling(transformers):
    """A Trainer whose Accelerator scales the loss on the CPU as it does on a GPU."""

    class Scaling(transformers.Trainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            self.accelerator.native_amp = True
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)

    return Scaling


def follow(run):
    schedule = fs.Linear(1.0, 0.0, steps=UPDATES)
    optimizer = fs.optim.AdamW(run.model.parameters(), lr=LR, weight_decay=0.0, schedule=schedule)
    return run.cls(**run.arguments, optimizers=(optimizer, fs.lr_scheduler.Follow(optimizer)))


@pytest.mark.parametrize("bad", [(), (2,)], ids=["finite", "one overflow"])
@pytest.mark.parametrize("way", [of_the_pair, of_create_optimizer, follow])
def test_float16_scales_and_skips_as_without_compile(transformers, tmp_path, once, way, bad):
    settings = {"learning_rate": LR, "fp16": True, "max_grad_norm": 0.5, "cls": scaling(transformers), "bad": bad}
    ours = Run(transformers, tmp_path, way, **settings).train()
    # not fused, which hides its skips from Accelerate, so that the scheduler would move on
    settings["optim"] = "adamw_torch"
    theirs = once(f"fp16 {bad}", lambda: Run(transformers, tmp_path, as_it_is, **settings).train())
    skipped = [i for i in range(1, UPDATES) if all(map(torch.equal, theirs.weights[i - 1], theirs.weights[i]))]
    assert skipped == list(bad)
    assert ours.optimizer().position == UPDATES - len(bad)
    assert ours.trainer.accelerator.scaler.get_scale() == theirs.trainer.accelerator.scaler.get_scale() != 8.0
    assert [row[0] for row in ours.lrs] == pytest.approx([row[0] for row in theirs.lrs], rel=1e-15)
    torch.testing.assert_close(ours.weights, theirs.weights, **FLOAT16)
    for our_entry, their_entry in zip(ours.logs(), theirs.logs(), strict=True):
        assert our_entry == pytest.approx(their_entry, rel=2**-11, nan_ok=True)


# ---- checkpoints

SAVING = {"learning_rate": LR, "weight_decay": 0.1, "warmup_steps": 2, "lr_scheduler_type": "cosine"}
WHERE = {"save_strategy": "steps", "save_steps": 4}
HANDOVERS = [
    (of_the_pair, of_the_pair),
    (of_create_optimizer, of_create_optimizer),
    (as_it_is, of_the_pair),
    (as_it_is, of_create_optimizer),
    (of_the_pair, as_it_is),
    (of_the_pair, of_create_optimizer),
]


@pytest.mark.parametrize(("saves", "resumes"), HANDOVERS)
def test_a_run_resumes_whoever_saved_the_checkpoint(transformers, tmp_path, saves, resumes):
    whole = Run(transformers, tmp_path, saves, **SAVING, **WHERE).train()
    resumed = Run(transformers, tmp_path, resumes, **SAVING).train(str(tmp_path / "checkpoint-4"))
    assert resumed.lrs == whole.lrs[4:]
    torch.testing.assert_close(resumed.weights, whole.weights[4:], **CLOSE)
    assert_same_logs(resumed.logs()[:-1], whole.logs()[:-1], CLOSE)  # the last is the mean loss of one call of train()
    if as_it_is not in (saves, resumes):  # one arithmetic: to the bit
        assert all(map(torch.equal, resumed.weights[-1], whole.weights[-1]))


@every_way
def test_the_newest_checkpoint_is_found(transformers, tmp_path, way):
    whole = Run(transformers, tmp_path, way, **SAVING, save_strategy="steps", save_steps=2).train()
    (tmp_path / "checkpoint-6").rename(tmp_path / "last")
    resumed = Run(transformers, tmp_path, way, **SAVING).train(True)
    assert resumed.lrs == whole.lrs[4:]
    assert all(map(torch.equal, resumed.weights[-1], whole.weights[-1]))


def test_a_second_train_goes_on_as_without_compile(transformers, tmp_path):
    ways = of_create_optimizer, as_it_is
    ours, theirs = (Run(transformers, tmp_path, way, learning_rate=LR).train().train() for way in ways)
    assert len(ours.lrs) == 2 * UPDATES
    torch.testing.assert_close(ours.weights, theirs.weights, **CLOSE)
