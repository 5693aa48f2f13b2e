"""Inside the real transformers, Accelerate and Lightning, and in plain loops: the trajectories of torch's own pair.

Every run is made twice, with torch's optimizer and scheduler and with what fastsched puts in their place. A trajectory
is a list of the learning rates that each update used and of the weights after it.
"""

import contextlib
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastsched as fs

pytestmark = [  # of Lightning's inside
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
]

torchs = torch.optim.lr_scheduler
SCHEDULE = fs.Linear(1.0, 0.1, steps=8).warmup(3, start=0.1)  # moves at every update of these runs
LR = 0.05
# Large: beside 1e-8, the rounding errors of gradients that are 0 in theory (biases of keys) would make whole updates.
EPS = 1e-4
# A dozen updates of at most LR each, of weights near 1: some float32 roundings.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def batches(count, size=4):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count * size, 6, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :2].sin()), batch_size=size)


def groups(model):
    """A group and a learning rate for every parameter."""
    return [{"params": [p], "lr": LR * 0.9**i} for i, p in enumerate(model.parameters())]


def shape(t):
    return SCHEDULE(t)


def torchs_optimizer(model):
    return torch.optim.AdamW(groups(model), lr=LR, eps=EPS)


def torchs_pair(model):
    optimizer = torchs_optimizer(model)
    return optimizer, torchs.LambdaLR(optimizer, shape)


def follow(model, **options):
    optimizer = fs.optim.AdamW(groups(model), lr=LR, eps=EPS, schedule=SCHEDULE, **options)
    return optimizer, fs.lr_scheduler.Follow(optimizer)


def driven(scheduler):
    def pair(model, **options):
        optimizer = fs.optim.AdamW(groups(model), lr=LR, eps=EPS, **options)
        return optimizer, scheduler(optimizer)

    return pair


def driving_torchs(model):
    optimizer = torchs_optimizer(model)
    return optimizer, fs.lr_scheduler.ScheduleLR(optimizer, SCHEDULE)


def compiled(model, **options):
    return fs.compile(*torchs_pair(model), **options)


FOLLOW = {"schedule= and Follow": follow}
DROP_INS = {
    "ScheduleLR": driven(lambda o: fs.lr_scheduler.ScheduleLR(o, SCHEDULE)),
    "LambdaLR of a function": driven(lambda o: fs.lr_scheduler.LambdaLR(o, shape)),
    "LambdaLR of a Schedule": driven(lambda o: fs.lr_scheduler.LambdaLR(o, SCHEDULE)),
    "ScheduleLR on torch's optimizer": driving_torchs,
    "compile": compiled,
}
WAYS = {**FOLLOW, **DROP_INS}
FUSED = {name: way for name, way in WAYS.items() if way is not driving_torchs}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
fused_ways = pytest.mark.parametrize("way", FUSED.values(), ids=FUSED)
every_drop_in = pytest.mark.parametrize("way", DROP_INS.values(), ids=DROP_INS)


class Trajectory:
    """The learning rates that every update used, and the weights after it."""

    def __init__(self):
        self.lrs = []
        self.weights = []

    def before(self, optimizer):
        self.lrs.append([float(group["lr"]) for group in optimizer.param_groups])

    def after(self, model):
        self.weights.append([p.detach().clone() for p in model.parameters()])

    def since(self, start):
        rest = Trajectory()
        rest.lrs, rest.weights = self.lrs[start:], self.weights[start:]
        return rest


def assert_same(ours, theirs, **tolerance):
    """Learning rates exactly, weights within float32 rounding."""
    assert len(theirs.lrs) > 1
    assert not torch.equal(theirs.weights[0][0], theirs.weights[-1][0])
    assert ours.lrs == theirs.lrs
    torch.testing.assert_close(ours.weights, theirs.weights, **(tolerance or CLOSE))


def assert_continues(resumed, whole):
    """The end of an undisturbed run, to the bit."""
    count = len(resumed.lrs)
    assert 0 < count < len(whole.lrs)
    assert resumed.lrs == whole.lrs[-count:]
    for ours, theirs in zip(resumed.weights, whole.weights[-len(resumed.weights) :], strict=True):
        assert all(map(torch.equal, ours, theirs))


# ---- transformers: Trainer


@pytest.fixture
def transformers():
    module = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    with fresh_accelerate():
        yield module


@contextlib.contextmanager
def fresh_accelerate():
    """Accelerate keeps its settings in the class; begin and end without."""
    from accelerate.state import AcceleratorState, GradientState

    def reset():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield
    reset()


def bert(transformers):
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=32,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
            num_labels=2,
        )
    )


def sentences(count=32):
    generator = torch.Generator().manual_seed(2)
    return [
        {"input_ids": torch.randint(0, 32, (6,), generator=generator), "labels": torch.tensor(i % 2)}
        for i in range(count)
    ]


def trainer_of(transformers, folder, pair=None, *, subclass=None, **rest):
    """A Trainer on a tiny BERT whose callback keeps the trajectory; and the trajectory."""
    keep = Trajectory()

    class Keep(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, *, optimizer, **_):
            keep.before(optimizer)

        def on_step_end(self, args, state, control, *, model, **_):
            keep.after(model)

    arguments = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "max_steps": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    extra = {key: rest.pop(key) for key in ("optimizer_cls_and_kwargs", "eval_dataset") if key in rest}
    model = bert(transformers)
    trainer = (subclass or transformers.Trainer)(
        model=model,
        args=transformers.TrainingArguments(**{**arguments, **rest}),
        train_dataset=sentences(),
        callbacks=[Keep()],
        **({"optimizers": pair(model)} if pair else {}),
        **extra,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer, keep


def trained(transformers, folder, pair=None, *, resume=None, **rest):
    trainer, keep = trainer_of(transformers, folder, pair, **rest)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, keep


def logged(trainer, key="learning_rate"):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@every_way
def test_trainer_goes_the_way_of_torchs_pair(transformers, tmp_path, once, way):
    _, ours = trained(transformers, tmp_path, way)
    _, theirs = once("trainer", lambda: trained(transformers, tmp_path, torchs_pair))
    assert len(ours.lrs) == 8
    assert_same(ours, theirs)


@every_way
def test_trainer_logs_the_learning_rates_of_torchs_pair(transformers, tmp_path, once, way):
    ours, _ = trained(transformers, tmp_path, way)
    theirs, _ = once("trainer", lambda: trained(transformers, tmp_path, torchs_pair))
    assert logged(ours) == logged(theirs) == [LR * SCHEDULE(t) for t in range(8)]


@every_way
def test_trainer_accumulates_gradients_as_with_torchs_pair(transformers, tmp_path, once, way):
    settings = {"gradient_accumulation_steps": 2, "max_steps": 5}
    _, ours = trained(transformers, tmp_path, way, **settings)
    _, theirs = once("trainer accumulates", lambda: trained(transformers, tmp_path, torchs_pair, **settings))
    assert len(ours.lrs) == 5
    assert_same(ours, theirs)


@every_way
def test_trainer_clips_by_max_grad_norm_as_with_torchs_pair(transformers, tmp_path, once, way):
    settings = {"max_grad_norm": 0.01, "max_steps": 5}
    trainer, ours = trained(transformers, tmp_path, way, **settings)
    _, theirs = once("trainer clips", lambda: trained(transformers, tmp_path, torchs_pair, **settings))
    assert min(logged(trainer, "grad_norm")) > 0.01
    assert_same(ours, theirs)


def test_the_optimizers_own_clip_is_that_of_the_training_arguments(transformers, tmp_path):
    def clipping(model):
        return follow(model, max_grad_norm=0.01)

    _, ours = trained(transformers, tmp_path, clipping, max_grad_norm=0, max_steps=5)
    _, theirs = trained(transformers, tmp_path, torchs_pair, max_grad_norm=0.01, max_steps=5)
    assert_same(ours, theirs)


def test_gradients_that_the_step_zeroes_accumulate_in_the_trainer_all_the_same(transformers, tmp_path):
    settings = {"gradient_accumulation_steps": 2, "max_steps": 5}
    _, ours = trained(transformers, tmp_path, lambda model: follow(model, zero_grads=True), **settings)
    _, theirs = trained(transformers, tmp_path, torchs_pair, **settings)
    assert_same(ours, theirs)


SAVING = {"save_strategy": "steps", "save_steps": 4}


@every_way
def test_trainer_resumes_from_its_checkpoint_to_the_bit(transformers, tmp_path, way):
    _, whole = trained(transformers, tmp_path, way, **SAVING)
    _, resumed = trained(transformers, tmp_path / "again", way, resume=str(tmp_path / "checkpoint-4"))
    assert len(resumed.lrs) == 4
    assert_continues(resumed, whole)


@every_way
def test_trainer_resumes_from_the_checkpoint_of_torchs_pair(transformers, tmp_path, once, way):
    _, theirs, folder = once(
        "trainer saves", lambda: (*trained(transformers, tmp_path, torchs_pair, **SAVING), str(tmp_path))
    )
    _, ours = trained(transformers, tmp_path / "again", way, resume=f"{folder}/checkpoint-4")
    assert_same(ours, theirs.since(4))


@pytest.mark.parametrize("name", ["LambdaLR of a function", "compile"])
def test_torchs_pair_resumes_from_our_checkpoint(transformers, tmp_path, name):
    _, ours = trained(transformers, tmp_path, WAYS[name], **SAVING)
    _, theirs = trained(transformers, tmp_path / "again", torchs_pair, resume=str(tmp_path / "checkpoint-4"))
    assert_same(ours.since(4), theirs)


@pytest.mark.parametrize("name", ["linear", "polynomial"])
def test_transformers_own_schedulers_are_compiled(transformers, tmp_path, name):
    def theirs_pair(model):
        optimizer = torchs_optimizer(model)
        return optimizer, transformers.get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=6)

    def ours_pair(model):
        return fs.compile(*theirs_pair(model))

    _, ours = trained(transformers, tmp_path, ours_pair, max_steps=6)
    _, theirs = trained(transformers, tmp_path, theirs_pair, max_steps=6)
    assert_same(ours, theirs)


# every name of transformers, with arguments where it has some
NAMES = {
    "linear": None,
    "cosine": {"num_cycles": 0.75},
    "cosine_with_restarts": {"num_cycles": 2},
    "polynomial": {"lr_end": 1e-3, "power": 2.0},
    "constant": None,
    "constant_with_warmup": None,
    "inverse_sqrt": {"timescale": 5},
    "reduce_lr_on_plateau": {"patience": 0},
    "cosine_with_min_lr": {"min_lr": 1e-3},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 4},
    "greedy": {"patience": 1},
}


def test_every_name_of_transformers_schedulers_is_in_the_table(transformers):
    assert set(NAMES) == {kind.value for kind in transformers.SchedulerType}


def of_name(get_scheduler, name):
    def pair(model):
        optimizer = torchs_optimizer(model)
        return optimizer, get_scheduler(name, optimizer, 3, 10, NAMES[name])

    return pair


def learning_rates(pair, measured):
    """What a scheduler makes of twelve updates, past its end; `measured` ones are told a loss that gets worse."""
    model = tiny()
    optimizer, scheduler = pair(model)
    found = []
    for t in range(12):
        plain_loop(model, optimizer, None, 1)
        scheduler.step(*([float(t)] if measured else []))
        found.append([group["lr"] for group in optimizer.param_groups])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_get_scheduler_gives_the_learning_rates_of_transformers(transformers, name):
    measured = name in ("reduce_lr_on_plateau", "greedy")
    ours = learning_rates(of_name(fs.lr_scheduler.get_scheduler, name), measured)
    assert ours == learning_rates(of_name(transformers.get_scheduler, name), measured)
    assert name == "constant" or ours[0] != ours[-1]


def test_trainer_goes_the_way_of_transformers_scheduler_with_ours(transformers, tmp_path):
    _, ours = trained(transformers, tmp_path, of_name(fs.lr_scheduler.get_scheduler, "cosine"))
    _, theirs = trained(transformers, tmp_path, of_name(transformers.get_scheduler, "cosine"))
    assert_same(ours, theirs)


TRAINING_ARGUMENTS = {
    "learning_rate": LR,
    "adam_epsilon": EPS,
    "weight_decay": 0.1,
    "warmup_steps": 2,
    "lr_scheduler_type": "cosine",
}


def test_compile_in_create_optimizer_keeps_the_training_arguments_defaults(transformers, tmp_path):
    class Compiled(transformers.Trainer):
        def create_optimizer(self, *args):
            if self.optimizer is None:
                self.optimizer, _ = fs.compile(super().create_optimizer(*args))
            return self.optimizer

    trainer, ours = trained(transformers, tmp_path, subclass=Compiled, **TRAINING_ARGUMENTS)
    _, theirs = trained(transformers, tmp_path, **TRAINING_ARGUMENTS)
    assert isinstance(trainer.optimizer.optimizer, fs.optim.AdamW)
    assert_same(ours, theirs)


def test_compile_of_what_the_trainer_made_keeps_the_training_arguments_defaults(transformers, tmp_path):
    trainer, ours = trainer_of(transformers, tmp_path, **TRAINING_ARGUMENTS)
    trainer.create_optimizer_and_scheduler(num_training_steps=8)
    trainer.optimizer, trainer.lr_scheduler = fs.compile(trainer.optimizer, trainer.lr_scheduler)
    trainer.train()
    _, theirs = trained(transformers, tmp_path, **TRAINING_ARGUMENTS)
    assert isinstance(trainer.optimizer.optimizer, fs.optim.AdamW)
    assert_same(ours, theirs)


def test_the_class_of_the_optimizer_may_be_handed_to_the_trainer(transformers, tmp_path):
    _, ours = trained(
        transformers,
        tmp_path,
        optimizer_cls_and_kwargs=(fs.optim.AdamW, {"lr": LR, "eps": EPS}),
        **TRAINING_ARGUMENTS,
    )
    _, theirs = trained(transformers, tmp_path, **TRAINING_ARGUMENTS)
    assert_same(ours, theirs)


def test_a_scheduler_that_the_trainer_adds_to_a_schedule_is_warned_of(transformers, tmp_path):
    def alone(model):
        return follow(model)[0], None

    with pytest.warns(UserWarning, match="a learning-rate scheduler is attached to an optimizer that advances its own"):
        trained(transformers, tmp_path, alone, max_steps=2)


def test_trainer_steps_a_plateau_as_torchs(transformers, tmp_path):
    def plateau(module, cls):
        def pair(model):
            optimizer = cls(groups(model), lr=LR, eps=EPS)
            return optimizer, module.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)

        return pair

    evaluate = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "max_steps": 4}
    data = sentences(4)
    _, ours = trained(transformers, tmp_path, plateau(fs.lr_scheduler, fs.optim.AdamW), eval_dataset=data, **evaluate)
    _, theirs = trained(transformers, tmp_path, plateau(torchs, torch.optim.AdamW), eval_dataset=data, **evaluate)
    assert ours.lrs[-1] != ours.lrs[0]
    assert_same(ours, theirs)


def test_trainer_trains_in_bfloat16_as_with_torchs_pair(transformers, tmp_path):
    _, ours = trained(transformers, tmp_path, follow, bf16=True, max_steps=4)
    _, theirs = trained(transformers, tmp_path, torchs_pair, bf16=True, max_steps=4)
    # a gradient may round to the bfloat16 next door, 2**-8 off, in four updates of at most LR
    assert_same(ours, theirs, rtol=0, atol=4 * LR * 2**-8)


# ---- Accelerate


@pytest.fixture
def accelerate():
    module = pytest.importorskip("accelerate")
    with fresh_accelerate():
        yield module


def accelerated(accelerate, pair, *, count=8, processes=1, prepare_scheduler=True, clips=None, **kwargs):
    """The loop of Accelerate's guide; returns the trajectory and the scheduler."""
    with fresh_accelerate():
        accelerator = accelerate.Accelerator(cpu=True, **kwargs)
        model = tiny()
        optimizer, scheduler = pair(model)
        model, optimizer, loader = accelerator.prepare(model, optimizer, batches(count))
        if prepare_scheduler:
            scheduler = accelerator.prepare(scheduler)
        if processes > 1:
            accelerate.PartialState().num_processes = processes  # which is all that its schedulers ask
        return accelerate_loop(accelerator, model, optimizer, scheduler, loader, **(clips or {})), scheduler


def accelerate_loop(accelerator, model, optimizer, scheduler, loader, *, norm=None, value=None):
    keep = Trajectory()
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            accelerator.backward((model(inputs) - targets).square().mean())
            if accelerator.sync_gradients:
                if norm:
                    accelerator.clip_grad_norm_(model.parameters(), norm)
                if value:
                    accelerator.clip_grad_value_(model.parameters(), value)
                keep.before(optimizer)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if accelerator.sync_gradients:
                keep.after(model)
    return keep


@every_way
def test_accelerate_goes_the_way_of_torchs_pair(accelerate, way):
    ours, _ = accelerated(accelerate, way)
    theirs, _ = accelerated(accelerate, torchs_pair)
    assert len(ours.lrs) == 8
    assert_same(ours, theirs)


@every_way
def test_accelerate_accumulates_as_with_torchs_pair(accelerate, way):
    # 7 batches: the last group of gradients is a single one
    ours, _ = accelerated(accelerate, way, count=7, gradient_accumulation_steps=2)
    theirs, _ = accelerated(accelerate, torchs_pair, count=7, gradient_accumulation_steps=2)
    assert len(ours.lrs) == 4
    assert_same(ours, theirs)


@every_way
@pytest.mark.parametrize("clips", [{"norm": 0.05}, {"value": 0.01}], ids=["norm", "value"])
def test_accelerate_clips_as_with_torchs_pair(accelerate, way, clips):
    ours, _ = accelerated(accelerate, way, clips=clips)
    theirs, _ = accelerated(accelerate, torchs_pair, clips=clips)
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("option", "clips"),
    [({"max_grad_norm": 0.05}, {"norm": 0.05}), ({"max_grad_value": 0.01}, {"value": 0.01})],
    ids=["norm", "value"],
)
def test_the_optimizers_own_clip_is_that_of_accelerate(accelerate, option, clips):
    ours, _ = accelerated(accelerate, lambda model: follow(model, **option))
    theirs, _ = accelerated(accelerate, torchs_pair, clips=clips)
    assert_same(ours, theirs)


@every_way
def test_accelerate_trains_in_bfloat16_as_with_torchs_pair(accelerate, way):
    ours, _ = accelerated(accelerate, way, mixed_precision="bf16")
    theirs, _ = accelerated(accelerate, torchs_pair, mixed_precision="bf16")
    # a gradient may round to the bfloat16 next door, 2**-8 off, in eight updates of at most LR
    assert_same(ours, theirs, rtol=0, atol=8 * LR * 2**-8)


@every_drop_in
def test_accelerate_steps_a_scheduler_once_for_each_process(accelerate, way):
    ours, _ = accelerated(accelerate, way, count=5, processes=2)
    theirs, _ = accelerated(accelerate, torchs_pair, count=5, processes=2)
    assert [row[0] for row in ours.lrs] == [LR * SCHEDULE(2 * t) for t in range(5)]
    assert_same(ours, theirs)


def test_accelerate_stops_a_one_cycle_at_its_end_as_torchs(accelerate):
    def one_cycle(module, cls):
        def pair(model):
            optimizer = cls(groups(model), lr=LR, eps=EPS)
            return optimizer, module.OneCycleLR(optimizer, LR, total_steps=6)

        return pair

    ours, _ = accelerated(accelerate, one_cycle(fs.lr_scheduler, fs.optim.AdamW), count=5, processes=2)
    theirs, _ = accelerated(accelerate, one_cycle(torchs, torch.optim.AdamW), count=5, processes=2)
    assert_same(ours, theirs)


def test_a_schedule_of_the_optimizer_counts_updates_and_not_processes(accelerate):
    ours, _ = accelerated(accelerate, follow, count=5, processes=2)
    theirs, _ = accelerated(accelerate, torchs_pair, count=5)
    assert_same(ours, theirs)


def test_gradients_that_the_step_zeroes_accumulate_in_accelerate_all_the_same(accelerate):
    ours, _ = accelerated(accelerate, lambda model: follow(model, zero_grads=True), gradient_accumulation_steps=2)
    theirs, _ = accelerated(accelerate, torchs_pair, gradient_accumulation_steps=2)
    assert_same(ours, theirs)


def of_two_processes():
    """What each of two real processes does, which Accelerate makes one distributed run of."""
    import accelerate

    theirs, _ = accelerated(accelerate, torchs_pair)
    assert len(theirs.lrs) == 4
    assert [row[0] for row in theirs.lrs] == [LR * SCHEDULE(2 * t) for t in range(4)]
    for way in DROP_INS.values():
        assert_same(accelerated(accelerate, way)[0], theirs)
    torch.distributed.destroy_process_group()  # a process that ends with gloo's threads alive may abort


def test_two_real_processes_go_the_way_of_torchs_pair(accelerate):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", "import test_frameworks; test_frameworks.of_two_processes()"]
    ranks = [
        subprocess.Popen(
            command,
            cwd=Path(__file__).parent,
            env={**shared, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors


def test_accelerate_need_not_prepare_follow(accelerate):
    ours, _ = accelerated(accelerate, follow, prepare_scheduler=False, gradient_accumulation_steps=2)
    theirs, _ = accelerated(accelerate, torchs_pair, gradient_accumulation_steps=2)
    assert_same(ours, theirs)


@fused_ways
def test_accelerate_prepares_both_together(accelerate, way):
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer, scheduler = accelerator.prepare(*way(tiny()))
    assert isinstance(optimizer, accelerate.optimizer.AcceleratedOptimizer)
    assert isinstance(scheduler, accelerate.scheduler.AcceleratedScheduler)
    assert scheduler.optimizers == [optimizer]


@every_way
def test_accelerates_scheduler_tells_the_last_learning_rates(accelerate, way):
    _, scheduler = accelerated(accelerate, way, count=3)
    assert scheduler.get_last_lr() == [LR * 0.9**i * SCHEDULE(3) for i in range(4)]


def test_a_position_set_before_prepare_stays(accelerate):
    optimizer, _ = follow(tiny())
    optimizer.position = 5
    prepared = accelerate.Accelerator(cpu=True).prepare(optimizer)
    assert prepared.optimizer.position == 5
    assert prepared.param_groups[0]["lr"] == LR * SCHEDULE(5)


def test_a_running_optimizer_keeps_its_position_when_prepared(accelerate):
    model = tiny()
    optimizer, _ = follow(model)
    plain_loop(model, optimizer, None, 3)
    prepared = accelerate.Accelerator(cpu=True).prepare(optimizer)
    assert prepared.optimizer.position == 3
    assert prepared.param_groups[0]["lr"] == LR * SCHEDULE(3)


@every_way
def test_accelerate_loads_its_state_and_goes_on_to_the_bit(accelerate, tmp_path, way):
    def run(count, start):
        with fresh_accelerate():
            accelerator = accelerate.Accelerator(cpu=True)
            model = tiny()
            model, optimizer, scheduler = accelerator.prepare(model, *way(model))
            data = list(batches(8))
            if start:
                accelerator.load_state(str(tmp_path))
            keep = accelerate_loop(accelerator, model, optimizer, scheduler, data[start : start + count])
            if not start and count < 8:
                accelerator.save_state(str(tmp_path))
            return keep

    whole = run(8, 0)
    run(4, 0)
    assert_continues(run(4, 4), whole)


def test_a_step_that_accelerate_wraps_for_its_scaler_is_not_taken_for_a_schedulers(accelerate):
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    model = tiny()
    model, optimizer, _ = accelerator.prepare(model, *follow(model))
    for inputs, targets in batches(2):  # a warning would be an error
        accelerator.backward((model(inputs) - targets).square().mean())
        optimizer.step()
    assert optimizer.optimizer.position == 2


# ---- Lightning


class Noted:
    """What a logger of Lightning was told, by step."""

    def __init__(self, lightning):
        class Logger(lightning.pytorch.loggers.Logger):
            name, version = "noted", 0

            def __init__(self):
                super().__init__()
                self.metrics = []

            def log_hyperparams(self, *_):
                pass

            def log_metrics(self, metrics, step=None):
                self.metrics.append((step, dict(metrics)))

        self.logger = Logger()

    def of(self, word):
        return [
            (step, {key.split("AdamW")[-1]: value for key, value in metrics.items() if word in key})
            for step, metrics in self.logger.metrics
            if any(word in key for key in metrics)
        ]


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning")


def module_of(lightning, configure, *, manual=False, scale=1.0):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = tiny()
            self.keep = Trajectory()
            self.automatic_optimization = not manual

        def loss(self, batch):
            inputs, targets = batch
            return (self.net(inputs) - targets).square().mean() * scale

        def training_step(self, batch, index):
            loss = self.loss(batch)
            if not manual:
                self.log("loss", loss)
                return loss
            optimizers, schedulers = self.optimizers(), self.lr_schedulers()
            optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()
            for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
                if scheduler is not None:
                    scheduler.step()
            return None

        def on_before_optimizer_step(self, optimizer):
            self.keep.before(optimizer)

        def on_train_batch_end(self, *_):
            self.keep.after(self.net)

        def configure_optimizers(self):
            return configure(self.net)

    return Module()


def fitted(lightning, configure, *, count=4, epochs=2, resume=None, manual=False, **rest):
    """Trajectory and Trainer of a run."""
    torch.manual_seed(0)
    module = module_of(lightning, configure, manual=manual)
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": epochs,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    trainer = lightning.Trainer(**{**settings, **rest})
    trainer.fit(module, batches(count), ckpt_path=resume)
    return module.keep, trainer


def each_step(scheduler):
    return {"scheduler": scheduler, "interval": "step"}


FORMS = {
    "[optimizer], [scheduler]": lambda o, s: ([o], [s]),
    "[optimizer], [config]": lambda o, s: ([o], [each_step(s)]),
    "{optimizer, scheduler}": lambda o, s: {"optimizer": o, "lr_scheduler": s},
    "{optimizer, config}": lambda o, s: {"optimizer": o, "lr_scheduler": each_step(s)},
    "{optimizer, config of frequency 2}": lambda o, s: {
        "optimizer": o,
        "lr_scheduler": {**each_step(s), "frequency": 2},
    },
    "({optimizer, config},)": lambda o, s: ({"optimizer": o, "lr_scheduler": each_step(s)},),
}
BARE_FORMS = {
    "optimizer": lambda o, _: o,
    "[optimizer]": lambda o, _: [o],
    "[optimizer], []": lambda o, _: ([o], []),
    "{optimizer}": lambda o, _: {"optimizer": o},
}


def configured(form, pair):
    return lambda net: form(*pair(net))


STEPWISE = FORMS["{optimizer, config}"]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@every_drop_in
def test_lightning_takes_a_pair_in_every_form_as_torchs(lightning, once, form, way):
    ours, _ = fitted(lightning, configured(form, way))
    theirs, _ = once(form, lambda: fitted(lightning, configured(form, torchs_pair)))
    assert len(ours.lrs) == 8
    assert_same(ours, theirs)


@pytest.mark.parametrize("form", [*FORMS.values(), *BARE_FORMS.values()], ids=[*FORMS, *BARE_FORMS])
def test_a_schedule_of_the_optimizer_advances_at_each_update_in_every_form(lightning, once, form):
    ours, _ = fitted(lightning, configured(form, follow))
    theirs, _ = once(STEPWISE, lambda: fitted(lightning, configured(STEPWISE, torchs_pair)))
    assert_same(ours, theirs)


@pytest.mark.parametrize("form", BARE_FORMS.values(), ids=BARE_FORMS)
def test_an_optimizer_without_any_schedule_stands_in_for_torchs(lightning, form):
    ours, _ = fitted(lightning, lambda net: form(fs.optim.AdamW(groups(net), lr=LR, eps=EPS), None))
    theirs, _ = fitted(lightning, lambda net: form(torch.optim.AdamW(groups(net), lr=LR, eps=EPS), None))
    assert_same(ours, theirs)


def test_lightning_steps_a_plateau_as_torchs(lightning):
    def plateau(module, cls):
        def configure(net):
            optimizer = cls(groups(net), lr=LR, eps=EPS)
            scheduler = module.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
            return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "loss"}

        return configure

    ours, _ = fitted(lightning, plateau(fs.lr_scheduler, fs.optim.AdamW), epochs=4, count=2)
    theirs, _ = fitted(lightning, plateau(torchs, torch.optim.AdamW), epochs=4, count=2)
    assert ours.lrs[-1] != ours.lrs[0]
    assert_same(ours, theirs)


@every_way
def test_lightning_optimizes_by_hand_as_with_torchs_pair(lightning, way):
    ours, _ = fitted(lightning, configured(FORMS["[optimizer], [scheduler]"], way), manual=True)
    theirs, _ = fitted(lightning, configured(FORMS["[optimizer], [scheduler]"], torchs_pair), manual=True)
    assert_same(ours, theirs)


@every_way
@pytest.mark.parametrize("form", ["lists", "dicts"])
def test_lightning_steps_two_optimizers_by_hand_as_torchs(lightning, way, form):
    def halves(pair):
        def configure(net):
            first, second = pair(net[0]), pair(net[2])
            if form == "lists":
                return [first[0], second[0]], [first[1], second[1]]
            return [{"optimizer": o, "lr_scheduler": s} for o, s in (first, second)]

        return configure

    ours, _ = fitted(lightning, halves(way), manual=True)
    theirs, _ = fitted(lightning, halves(torchs_pair), manual=True)
    assert len(ours.lrs) == 16
    assert_same(ours, theirs)


@every_way
def test_the_learning_rate_monitor_logs_as_with_torchs_pair(lightning, way):
    logs = []
    for pair in (way, torchs_pair):
        noted = Noted(lightning)
        monitor = lightning.pytorch.callbacks.LearningRateMonitor()
        fitted(lightning, configured(STEPWISE, pair), logger=noted.logger, callbacks=[monitor])
        logs.append(noted.of("lr-"))
    assert logs[0] == logs[1]
    assert [metrics["/pg1"] for _, metrics in logs[0]] == [LR * SCHEDULE(t) for t in range(8)]


def test_the_learning_rate_monitor_logs_a_schedule_without_a_scheduler(lightning):
    noted = Noted(lightning)
    monitor = lightning.pytorch.callbacks.LearningRateMonitor("step")
    fitted(lightning, alone, logger=noted.logger, callbacks=[monitor])
    assert [metrics["/pg2"] for _, metrics in noted.of("lr-")] == [LR * 0.9 * SCHEDULE(t) for t in range(8)]


def test_the_learning_rate_monitor_logs_momentum_and_decay_as_with_torchs(lightning):
    logs = []
    for module, cls in ((fs.lr_scheduler, fs.optim.AdamW), (torchs, torch.optim.AdamW)):

        def configure(net, module=module, cls=cls):
            optimizer = cls(groups(net), lr=LR, eps=EPS)
            return STEPWISE(optimizer, module.OneCycleLR(optimizer, LR, total_steps=9))

        noted = Noted(lightning)
        monitor = lightning.pytorch.callbacks.LearningRateMonitor(log_momentum=True, log_weight_decay=True)
        fitted(lightning, configure, logger=noted.logger, callbacks=[monitor])
        logs.append(noted.of("lr-"))
    assert len(logs[0]) == 8
    assert logs[0] == logs[1]


@every_way
def test_lightning_resumes_from_its_checkpoint_to_the_bit(lightning, tmp_path, way):
    path = str(tmp_path / "half.ckpt")
    whole, _ = fitted(lightning, configured(STEPWISE, way))
    _, trainer = fitted(lightning, configured(STEPWISE, way), epochs=1)
    trainer.save_checkpoint(path)
    resumed, _ = fitted(lightning, configured(STEPWISE, way), resume=path)
    assert len(resumed.lrs) == 4
    assert_continues(resumed, whole)


@every_way
def test_lightning_resumes_from_the_checkpoint_of_torchs_pair(lightning, tmp_path, way):
    path = str(tmp_path / "half.ckpt")
    theirs, _ = fitted(lightning, configured(STEPWISE, torchs_pair))
    _, trainer = fitted(lightning, configured(STEPWISE, torchs_pair), epochs=1)
    trainer.save_checkpoint(path)
    resumed, _ = fitted(lightning, configured(STEPWISE, way), resume=path)
    assert_same(resumed, theirs.since(4))


def test_lightning_resumes_a_schedule_without_a_scheduler(lightning, tmp_path):
    path = str(tmp_path / "half.ckpt")
    whole, _ = fitted(lightning, alone)
    _, trainer = fitted(lightning, alone, epochs=1)
    trainer.save_checkpoint(path)
    resumed, _ = fitted(lightning, alone, resume=path)
    assert_continues(resumed, whole)


@every_way
@pytest.mark.parametrize(("algorithm", "value"), [("norm", 0.05), ("value", 0.01)])
def test_lightning_clips_as_with_torchs_pair(lightning, way, algorithm, value):
    clip = {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}
    ours, _ = fitted(lightning, configured(STEPWISE, way), **clip)
    theirs, _ = fitted(lightning, configured(STEPWISE, torchs_pair), **clip)
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("option", "algorithm", "value"),
    [({"max_grad_norm": 0.05}, "norm", 0.05), ({"max_grad_value": 0.01}, "value", 0.01)],
    ids=["norm", "value"],
)
def test_the_optimizers_own_clip_is_that_of_lightning(lightning, option, algorithm, value):
    ours, _ = fitted(lightning, lambda net: follow(net, **option)[0])
    theirs, _ = fitted(
        lightning,
        configured(STEPWISE, torchs_pair),
        gradient_clip_val=value,
        gradient_clip_algorithm=algorithm,
    )
    assert_same(ours, theirs)


@every_way
def test_lightning_accumulates_as_with_torchs_pair(lightning, way):
    ours, _ = fitted(lightning, configured(STEPWISE, way), accumulate_grad_batches=2, epochs=4)
    theirs, _ = fitted(lightning, configured(STEPWISE, torchs_pair), accumulate_grad_batches=2, epochs=4)
    assert len(ours.lrs) == 8
    assert_same(ours, theirs)


def test_lightning_trains_in_bfloat16_as_with_torchs_pair(lightning):
    ours, _ = fitted(lightning, configured(STEPWISE, follow), precision="bf16-mixed")
    theirs, _ = fitted(lightning, configured(STEPWISE, torchs_pair), precision="bf16-mixed")
    # a gradient may round to the bfloat16 next door, 2**-8 off, in eight updates of at most LR
    assert_same(ours, theirs, rtol=0, atol=8 * LR * 2**-8)


def grad_scaler(lightning):
    """Lightning's loss scaling, which it offers for CUDA alone by name."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    return lightning.pytorch.plugins.MixedPrecision("16-mixed", "cpu", scaler)


@pytest.mark.parametrize("amp", [False, True])
def test_lightning_scales_the_loss_as_with_torchs_pair(lightning, amp):
    ours, _ = fitted(lightning, lambda net: STEPWISE(*follow(net, amp=amp)), plugins=[grad_scaler(lightning)])
    theirs, _ = fitted(lightning, configured(STEPWISE, torchs_pair), plugins=[grad_scaler(lightning)])
    # a gradient may round to the float16 next door, 2**-11 off, in eight updates of at most LR
    assert_same(ours, theirs, rtol=0, atol=8 * LR * 2**-11)


def test_lightning_refuses_to_clip_what_unscales_by_itself(lightning):
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        fitted(
            lightning,
            lambda net: follow(net, amp=True)[0],
            plugins=[grad_scaler(lightning)],
            gradient_clip_val=1.0,
        )


def at_step(lightning, step, act):
    """A callback that hands Lightning's wrapper of the optimizer to `act` before update `step`."""

    class At(lightning.pytorch.callbacks.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            if trainer.global_step == step:
                act(module.optimizers())

    return At()


def alone(net):
    return follow(net)[0]


def test_lightnings_wrapper_tells_position_and_learning_rates(lightning):
    seen = []
    look = at_step(lightning, 5, lambda wrapper: seen.append((wrapper.position, wrapper.lrs[0])))
    fitted(lightning, alone, callbacks=[look])
    assert seen == [(5, LR * SCHEDULE(5))]


def test_a_position_set_through_lightnings_wrapper_counts(lightning):
    jump = at_step(lightning, 2, lambda wrapper: setattr(wrapper, "position", 6))
    ours, trainer = fitted(lightning, alone, callbacks=[jump])
    assert [row[0] for row in ours.lrs] == [LR * SCHEDULE(t) for t in (0, 1, 6, 7, 8, 9, 10, 11)]
    assert trainer.optimizers[0].position == 12


def test_scale_lr_through_lightnings_wrapper_lasts(lightning):
    halve = at_step(lightning, 2, lambda wrapper: wrapper.scale_lr(0.5))
    again = at_step(lightning, 4, lambda wrapper: wrapper.optimizer.scale_lr(0.5))
    ours, _ = fitted(lightning, alone, callbacks=[halve, again])
    factors = [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert [row[0] for row in ours.lrs] == [LR * f * SCHEDULE(t) for t, f in enumerate(factors)]


def test_lightnings_wrapper_lends_the_averages(lightning):
    seen = []

    def look(wrapper):
        p = wrapper.param_groups[0]["params"][0]
        with wrapper.ema():
            seen.append(torch.equal(p, wrapper.state[p]["ema"]))

    fitted(lightning, lambda net: follow(net, ema_decay=0.9)[0], callbacks=[at_step(lightning, 3, look)])
    assert seen == [True]


# ---- Lightning Fabric


def of_fabric(lightning, pair, *, saved=None, load=None, **kwargs):
    """A loop of Fabric, which saves after 4 updates of 8, or begins there."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1, **kwargs)
    model = tiny()
    optimizer, scheduler = pair(model)
    model, optimizer = fabric.setup(model, optimizer)
    keep, start = Trajectory(), 0
    if load:
        state = {"model": model, "optimizer": optimizer}
        scheduler.load_state_dict(fabric.load(load, state)["scheduler"])
        start = 4
    for t, (inputs, targets) in enumerate(list(batches(8))[start:], start):
        if saved and t == 4:
            fabric.save(saved, {"model": model, "optimizer": optimizer, "scheduler": scheduler.state_dict()})
        optimizer.zero_grad()
        fabric.backward((model(inputs) - targets).square().mean())
        fabric.clip_gradients(model, optimizer, max_norm=0.05)
        keep.before(optimizer)
        optimizer.step()
        scheduler.step()
        keep.after(model)
    return keep


@every_way
def test_fabric_goes_the_way_of_torchs_pair(lightning, way):
    assert_same(of_fabric(lightning, way), of_fabric(lightning, torchs_pair))


@every_way
def test_fabric_resumes_from_its_checkpoint_to_the_bit(lightning, tmp_path, way):
    path = str(tmp_path / "half.ckpt")
    whole = of_fabric(lightning, way, saved=path)
    assert_continues(of_fabric(lightning, way, load=path), whole)


# ---- plain loops


def plain_loop(model, optimizer, scheduler, count, keep=None, start=0):
    for inputs, targets in list(batches(8))[start : start + count]:
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        if keep:
            keep.before(optimizer)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if keep:
            keep.after(model)


def scaled(pair, *, overflow=(), clip=None, only_updates=False, **kwargs):
    """The loop of torch's guide to automatic mixed precision; gradients overflow at the steps in `overflow`."""
    model = tiny()
    optimizer, scheduler = pair(model, **kwargs)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    keep, scales = Trajectory(), []
    for t, (inputs, targets) in enumerate(batches(8)):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(inputs) - targets).square().mean()
        scaler.scale(loss * (math.inf if t in overflow else 1.0)).backward()
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        keep.before(optimizer)
        scaler.step(optimizer)
        scales.append(scaler.get_scale())
        scaler.update()
        skipped = scaler.get_scale() < scales[-1]
        if not (only_updates and skipped):
            scheduler.step()
        keep.after(model)
    return keep, scales


# a gradient may round to the bfloat16 next door, 2**-8 off, in eight updates of at most LR
BFLOAT16 = {"rtol": 0, "atol": 8 * LR * 2**-8}
AMP = [(way, amp) for way in FUSED.values() for amp in (False, True)]
AMP_NAMES = [f"{name}-{'amp' if amp else 'plain'}" for name in FUSED for amp in (False, True)]


@pytest.mark.parametrize(("way", "amp"), AMP, ids=AMP_NAMES)
def test_grad_scaler_goes_the_way_of_torchs_pair(way, amp):
    (ours, our_scales), (theirs, their_scales) = scaled(way, amp=amp), scaled(torchs_pair)
    assert our_scales == their_scales
    assert_same(ours, theirs, **BFLOAT16)


@pytest.mark.parametrize(("way", "amp"), AMP, ids=AMP_NAMES)
def test_grad_scaler_skips_as_with_torchs_pair(way, amp):
    settings = {"overflow": (0, 3), "only_updates": True}
    (ours, our_scales), (theirs, their_scales) = scaled(way, amp=amp, **settings), scaled(torchs_pair, **settings)
    assert our_scales == their_scales
    assert all(map(torch.equal, ours.weights[2], ours.weights[3]))
    assert_same(ours, theirs, **BFLOAT16)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # as in torch's guide, after a first skip
@every_drop_in
def test_a_scheduler_that_is_stepped_after_a_skip_moves_on_as_torchs(way):
    ours, theirs = scaled(way, overflow=(0, 3))[0], scaled(torchs_pair, overflow=(0, 3))[0]
    assert [row[0] for row in ours.lrs] == [LR * SCHEDULE(t) for t in range(8)]
    assert_same(ours, theirs, **BFLOAT16)


@pytest.mark.parametrize(("way", "amp"), AMP, ids=AMP_NAMES)
def test_unscaled_gradients_are_clipped_as_with_torchs_pair(way, amp):
    ours, _ = scaled(way, amp=amp, clip=0.05, overflow=(2,), only_updates=True)
    theirs, _ = scaled(torchs_pair, clip=0.05, overflow=(2,), only_updates=True)
    assert_same(ours, theirs, **BFLOAT16)


@pytest.mark.parametrize("amp", [False, True])
def test_the_optimizers_own_clip_is_that_of_unscaled_gradients(amp):
    ours, _ = scaled(follow, amp=amp, max_grad_norm=0.05)
    theirs, _ = scaled(torchs_pair, clip=0.05)
    assert_same(ours, theirs, **BFLOAT16)


# ---- loops in the manner of timm


def timms_loop(optimizer, scheduler, model, keep, epochs=2, count=4):
    """timm's train.py: `step_update(num_updates)` after each update, `step(epoch, metric)` after each epoch, if any."""
    for epoch in range(epochs):
        for index, (inputs, targets) in enumerate(batches(count)):
            (model(inputs) - targets).square().mean().backward()
            keep.before(optimizer)
            optimizer.step()
            optimizer.zero_grad()
            keep.after(model)
            if scheduler is not None:
                scheduler.step_update(num_updates=epoch * count + index + 1, metric=0.0)
        if scheduler is not None:
            scheduler.step(epoch + 1, 0.0)


class TimmsScheduler:
    """What timm's schedulers do to an optimizer: write the value of an update, times lr_scale, into every group."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.step_update(0)

    def step_update(self, num_updates, metric=None):
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * SCHEDULE(num_updates) * group.get("lr_scale", 1.0)

    def step(self, epoch, metric=None):
        pass


def timm(optimizer_of, scheduler_of):
    model, keep = tiny(), Trajectory()
    optimizer = optimizer_of(model)
    timms_loop(optimizer, scheduler_of(optimizer), model, keep)
    return keep


def test_a_scheduler_in_the_manner_of_timm_drives_our_optimizer_as_torchs():
    ours = timm(lambda model: fs.optim.AdamW(groups(model), lr=LR, eps=EPS), TimmsScheduler)
    assert_same(ours, timm(torchs_optimizer, TimmsScheduler))


def test_a_schedule_of_the_optimizer_needs_no_scheduler_in_the_manner_of_timm():
    ours = timm(lambda model: follow(model)[0], lambda _: None)
    assert_same(ours, timm(torchs_optimizer, TimmsScheduler))


def test_a_schedule_lr_serves_a_loop_in_the_manner_of_timm():
    ours = timm(torchs_optimizer, lambda optimizer: fs.lr_scheduler.ScheduleLR(optimizer, SCHEDULE))
    assert_same(ours, timm(torchs_optimizer, TimmsScheduler))


def test_follow_serves_a_loop_in_the_manner_of_timm():
    ours = timm(lambda model: follow(model)[0], fs.lr_scheduler.Follow)
    assert_same(ours, timm(torchs_optimizer, TimmsScheduler))
