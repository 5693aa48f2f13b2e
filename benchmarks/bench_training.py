"""Whole training runs: what share of the time optimizer and scheduler take.

A small BERT with 200 groups is trained by a plain loop, by transformers.Trainer and by lightning.Trainer, with torch's
fused AdamW and transformers' cosine schedule, or with what fastsched puts in their place; the demo's vision transformer
learns the digits by a plain loop, with the demo's optimizers. Each case asserts first that both end with the same
weights and have logged the same learning rates (the digits: losses). Beside the usual figures, which are of the whole
run, extra_info has `own_share` and `baseline_share`: of the time of a run, what clipping, optimizer and scheduler took.
"""

import time
from statistics import median
from typing import NamedTuple

import pytest
import torch
from beside import beside

import fastsched as fs

pytestmark = [  # of Lightning's inside
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
]

GROUPS, BATCH, WORDS = 200, 8, 1000
WARMUP, LOGGED_EVERY, ROUNDS = 2, 3, 3
LR, DECAY, LARGEST_NORM = 1e-3, 0.01, 1.0
EPS = 1e-6  # BERT's; beside 1e-8, the rounding errors of biases whose gradients are 0 in theory make whole updates


class Size(NamedTuple):
    """Of the model, of its sentences, and of a run."""

    width: int
    tokens: int
    updates: int


SMALL, TINY = Size(128, 32, 12), Size(8, 4, 6)  # tiny where nothing is timed


def bert(size):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=size.width,
            num_hidden_layers=12,
            num_attention_heads=2,
            intermediate_size=4 * size.width,
            max_position_embeddings=size.tokens,
        )
    )


def sentences(size):
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(0, WORDS, (size.updates * BATCH, size.tokens), generator=generator)
    return [{"input_ids": row, "labels": row[0] % 2} for row in words]


def groups(model):
    """A group with a learning rate of its own for every tensor; weight and bias of the classifier share one."""
    *body, weight, bias = model.parameters()
    tensors = [*([p] for p in body), [weight, bias]]
    assert len(tensors) == GROUPS
    return [
        {"params": params, "lr": LR * 0.99 ** (GROUPS - 1 - i), "weight_decay": DECAY * (params[0].ndim > 1)}
        for i, params in enumerate(tensors)
    ]


# ---- pairs of optimizer and scheduler


def torchs(model, updates):
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.AdamW(groups(model), eps=EPS, fused=True)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, WARMUP, updates)


def compiled(model, updates):
    return fs.compile(*torchs(model, updates))


def scheduled(model, updates, **options):
    schedule = fs.Cosine(steps=updates - WARMUP).warmup(WARMUP)
    optimizer = fs.optim.AdamW(groups(model), eps=EPS, schedule=schedule, **options)
    return optimizer, fs.lr_scheduler.Follow(optimizer)


def clipping(model, updates):
    return scheduled(model, updates, max_grad_norm=LARGEST_NORM)


# ---- runs


class Run:
    """A run that can be made once: its seconds, and those that clipping, optimizer and scheduler took of them."""

    def __init__(self, size):
        self.size = size
        self.model = bert(size)
        self.spent = 0.0

    def timed(self, call):
        def within(*args, **kwargs):
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.spent += time.perf_counter() - start
            return result

        return within

    def train(self):
        torch.manual_seed(2)  # of dropout
        start = time.perf_counter()
        self.fit()
        self.seconds = time.perf_counter() - start

    def share(self):
        return self.spent / self.seconds


class OfLoop(Run):
    """Backward, clip, step, scheduler, zeroing; the loss is read as a log would."""

    def __init__(self, pair, size, folder):
        super().__init__(size)
        self.optimizer, self.scheduler = pair(self.model, size.updates)
        self.batches = torch.utils.data.DataLoader(sentences(size), batch_size=BATCH)
        self.clips = pair is not clipping
        self.lrs = []

    def update(self):
        if self.clips:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_NORM)
        self.optimizer.step()
        self.scheduler.step()

    def fit(self):
        for number, batch in enumerate(self.batches, 1):
            self.model(**batch).loss.backward()
            self.timed(self.update)()
            self.optimizer.zero_grad()
            if number % LOGGED_EVERY == 0:
                self.lrs.append(self.optimizer.param_groups[0]["lr"])

    def logged(self):
        return self.lrs


class OfDigits:
    """The demo's model, data and runs, from new weights: `pair` is one of the demo's two optimizers."""

    def __init__(self, pair, size, folder):
        from fastsched import demo

        torch.manual_seed(0)
        self.size = size
        self.model = demo.VisionTransformer(classes=10)
        self.run = pair(demo)(self.model, size.updates)
        self.batches = list(demo.batches(demo.digits(0)[0], size.updates, 0))

    def train(self):
        for batch in self.batches:
            self.run.step(batch)

    def share(self):
        return sum(self.run.update_seconds) / sum(self.run.step_seconds)

    def logged(self):
        return self.run.losses[LOGGED_EVERY - 1 :: LOGGED_EVERY]


def digits_by_fastsched(demo):
    return demo.with_fastsched


def digits_by_torch(demo):
    return demo.with_torch


class OfTrainer(Run):
    def __init__(self, pair, size, folder):
        import transformers

        super().__init__(size)
        run = self

        class Watch(transformers.TrainerCallback):
            def on_train_begin(self, args, state, control, **_):
                trainer = run.trainer
                for owner, name in (
                    (trainer.accelerator, "clip_grad_norm_"),
                    (trainer.optimizer, "step"),  # of Accelerate's wrapper
                    (trainer.lr_scheduler, "step"),
                ):
                    setattr(owner, name, run.timed(getattr(owner, name)))

        self.trainer = transformers.Trainer(
            model=self.model,
            args=transformers.TrainingArguments(
                output_dir=str(folder),
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
                logging_steps=LOGGED_EVERY,
                per_device_train_batch_size=BATCH,
                num_train_epochs=1,
                max_grad_norm=LARGEST_NORM,
            ),
            train_dataset=sentences(size),
            optimizers=pair(self.model, size.updates),
            callbacks=[Watch()],
        )
        self.trainer.remove_callback(transformers.PrinterCallback)

    def fit(self):
        self.trainer.train()

    def logged(self):
        return [entry["learning_rate"] for entry in self.trainer.state.log_history if "learning_rate" in entry]


class OfLightning(Run):
    def __init__(self, pair, size, folder):
        import lightning

        super().__init__(size)
        run = self

        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.model = run.model

            def training_step(self, batch, index):
                return self.model(**batch).loss

            def configure_optimizers(self):
                optimizer, scheduler = pair(self.model, size.updates)
                if pair is clipping:
                    return optimizer
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

            def optimizer_step(self, epoch, index, optimizer, optimizer_closure):
                """Lightning's, without the model's part; its clip comes between the two."""

                def model():
                    start = time.perf_counter()
                    loss = optimizer_closure()
                    run.spent -= time.perf_counter() - start
                    return loss

                run.timed(optimizer.step)(closure=model)

            def lr_scheduler_step(self, scheduler, metric):
                run.timed(scheduler.step)()

        class Noted(lightning.pytorch.loggers.Logger):
            name, version = "noted", 0

            def __init__(self):
                super().__init__()
                self.lrs = []

            def log_hyperparams(self, *_):
                pass

            def log_metrics(self, metrics, step=None):
                self.lrs += [value for key, value in metrics.items() if key.endswith("/pg1")]

        self.logger = Noted()
        self.module = Module()
        self.data = torch.utils.data.DataLoader(sentences(size), batch_size=BATCH)
        self.trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            default_root_dir=folder,
            logger=self.logger,
            callbacks=[lightning.pytorch.callbacks.LearningRateMonitor("step")],
            log_every_n_steps=LOGGED_EVERY,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=None if pair is clipping else LARGEST_NORM,
        )

    def fit(self):
        self.trainer.fit(self.module, self.data)

    def logged(self):
        return self.logger.lrs


def assert_same_run(ours, theirs):
    assert len(theirs.logged()) == theirs.size.updates // LOGGED_EVERY
    # learning rates are two formulas of one cosine; the digits' losses are float32 sums that weights move by 1e-6
    assert ours.logged() == pytest.approx(theirs.logged(), rel=1e-4 if isinstance(ours, OfDigits) else 1e-12)
    # attention does not depend on its key's bias: that gradient is rounding, of which Adam makes whole updates
    mine, others = (
        [p.detach() for name, p in run.model.named_parameters() if not name.endswith("qkv.bias")]
        for run in (ours, theirs)
    )
    # some float32 roundings of weights near 1, which move by thousands of these
    torch.testing.assert_close(mine, others, rtol=1e-5, atol=2e-6)


# name: kind of run, ours, the baseline
CASES = {
    "BERT in 200 groups, plain loop, fs.compile": (OfLoop, compiled, torchs),
    "BERT in 200 groups, plain loop, schedule= and max_grad_norm=": (OfLoop, clipping, torchs),
    "BERT in 200 groups, Trainer, fs.compile": (OfTrainer, compiled, torchs),
    "BERT in 200 groups, Trainer, schedule= and Follow": (OfTrainer, scheduled, torchs),
    "BERT in 200 groups, Lightning, fs.compile": (OfLightning, compiled, torchs),
    "BERT in 200 groups, Lightning, schedule= and max_grad_norm=": (OfLightning, clipping, torchs),
    "digits ViT, plain loop, schedule=": (OfDigits, digits_by_fastsched, digits_by_torch),
}
SHORT = [name for name in CASES if "plain loop, schedule=" in name]


@pytest.fixture
def size(benchmark):
    """Small where it is timed, else tiny."""
    return SMALL if benchmark.enabled else TINY


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.short] if name in SHORT else []) for name in CASES]
)
def test_training(benchmark, size, tmp_path, name):
    for module in ("transformers", "accelerate", "lightning"):
        pytest.importorskip(module)
    kind, *pairs = CASES[name]
    runs, shares = [], ([], [])

    def renew():
        runs[:] = [kind(pair, size, tmp_path) for pair in pairs]

    def train(side):
        runs[side].train()
        shares[side].append(runs[side].share())

    renew()
    for side in (0, 1):
        runs[side].train()
    assert_same_run(*runs)
    beside(
        benchmark,
        f"{size.updates} updates: {name}",
        lambda: train(0),
        "AdamW(fused) + LambdaLR",
        lambda: train(1),
        before=renew,
        rounds=ROUNDS,
    )
    own, baseline = (median(found[2:] or found) for found in shares)  # the first two warm up
    benchmark.extra_info |= {"own_share": own, "baseline_share": baseline}
