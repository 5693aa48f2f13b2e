"""on_mismatch: a checkpoint that was made with another schedule than the code's."""

import copy
import warnings

import pytest
import torch
from optimizers import give_grads

import fastsched as fs

SAVED, CODE = fs.Cosine(steps=10).warmup(2), fs.Cosine(steps=20).warmup(2)
FIELDS = r"schedule: Cosine's steps: 10 in the checkpoint, 20 in the code"


def params():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 2), (2,)]]


def train(optimizer, updates):
    lrs = []
    for t in updates:
        give_grads([p for group in optimizer.param_groups for p in group["params"]], seed=t)
        lrs.append(optimizer.lrs)
        optimizer.step()
    return lrs


def made(schedule, on_mismatch, lr=0.1, **options):
    groups = [{"params": [p], "lr": lr * 0.5**i} for i, p in enumerate(params())]
    return fs.optim.AdamW(groups, lr=lr, schedule=schedule, on_mismatch=on_mismatch, **options)


def checkpoint(schedule=SAVED, on_mismatch="error", **options):
    optimizer = made(schedule, on_mismatch, **options)
    train(optimizer, range(3))
    return copy.deepcopy(optimizer.state_dict())


def expected(schedule, updates, lr=0.1):
    return [[lr * schedule(t), lr * 0.5 * schedule(t)] for t in updates]


# ---- the optimizer


def test_error_names_the_fields_and_what_to_pass():
    with pytest.raises(ValueError, match=rf"AdamW: .*{FIELDS}; .*on_mismatch='checkpoint'.*on_mismatch='code'"):
        made(CODE, "error").load_state_dict(checkpoint())


def test_error_leaves_everything_as_it_was():
    optimizer = made(CODE, "error")
    train(optimizer, range(2))
    before = copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(ValueError, match=FIELDS):
        optimizer.load_state_dict(checkpoint())
    assert optimizer.position == 2
    torch.testing.assert_close(optimizer.state_dict()["state"], before, rtol=0, atol=0)
    assert train(optimizer, range(2, 5)) == expected(CODE, range(2, 5))


@pytest.mark.parametrize(("choice", "used"), [("checkpoint", SAVED), ("code", CODE)])
def test_the_chosen_schedule_is_used_and_a_warning_has_the_fields(choice, used):
    optimizer = made(CODE, choice)
    with pytest.warns(UserWarning, match=rf"AdamW: the {choice}'s schedule is used: {FIELDS}") as warned:
        optimizer.load_state_dict(checkpoint())
    assert warned[0].filename == __file__
    assert train(optimizer, range(3, 12)) == expected(used, range(3, 12))


@pytest.mark.parametrize("choice", ["error", "checkpoint", "code"])
def test_equal_schedules_load_silently(choice):
    optimizer = made(SAVED, choice)
    optimizer.load_state_dict(checkpoint())
    assert train(optimizer, range(3, 6)) == expected(SAVED, range(3, 6))


@pytest.mark.parametrize(("choice", "lr"), [("checkpoint", 0.1), ("code", 0.3)])
def test_base_lrs_are_part_of_it(choice, lr):
    optimizer = made(SAVED, choice, lr=0.3)
    with pytest.warns(UserWarning, match="group 0's lr: 0.1 in the checkpoint, 0.3 in the code; group 1's lr: 0.05"):
        optimizer.load_state_dict(checkpoint())
    assert train(optimizer, range(3, 5)) == [
        pytest.approx(row, rel=1e-15) for row in expected(SAVED, range(3, 5), lr=lr)
    ]


def test_a_scheduled_hyperparameter_of_the_checkpoint_is_taken():
    decay = fs.Linear(0.1, 0.0, steps=10)
    optimizer = made(SAVED, "checkpoint")
    with pytest.warns(
        UserWarning, match=r"group 0's weight_decay: Linear\(0.1, 0.0, steps=10\) in the checkpoint, none"
    ):
        optimizer.load_state_dict(checkpoint(weight_decay=decay))
    assert optimizer.param_groups[0]["weight_decay"] == decay(3)
    train(optimizer, [3])
    assert optimizer.param_groups[0]["weight_decay"] == decay(4)


def test_a_scheduled_hyperparameter_of_the_code_alone_stands_still_with_the_checkpoints():
    optimizer = made(SAVED, "checkpoint", weight_decay=fs.Linear(0.5, 0.0, steps=10))
    with pytest.warns(UserWarning, match="group 0's weight_decay"):
        optimizer.load_state_dict(checkpoint(weight_decay=0.25))
    train(optimizer, [3])
    assert optimizer.param_groups[0]["weight_decay"] == 0.25


def test_no_schedule_in_the_code():
    optimizer = made(None, "checkpoint")
    with pytest.warns(UserWarning, match=r"schedule: Linear.* in the checkpoint, none in the code"):
        optimizer.load_state_dict(checkpoint())
    assert train(optimizer, range(3, 5)) == expected(SAVED, range(3, 5))


def test_by_default_a_state_dict_is_torchs_and_the_codes_schedule_stands():
    saved = checkpoint(on_mismatch=None)
    assert saved.keys() == {"state", "param_groups"}
    optimizer = made(CODE, "error")
    optimizer.load_state_dict(saved)
    assert train(optimizer, range(3, 5)) == expected(CODE, range(3, 5))


def test_a_checkpoint_with_schedules_loads_into_torch():
    twin = torch.optim.AdamW(params(), lr=0.1)
    twin.load_state_dict({**checkpoint(), "param_groups": twin.state_dict()["param_groups"]})
    assert len(twin.state) == 2


def test_a_checkpoint_with_schedules_survives_torchs_safe_reader(tmp_path):
    torch.save(checkpoint(), tmp_path / "optimizer.pt")
    saved = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert fs.from_json(saved["schedules"]["schedule"]) == SAVED


@pytest.mark.parametrize("broken", [{"schedule": "no json"}, {"schedule": 3.0}, {"group 0's lr": -1.0}, "text"])
def test_broken_schedules_of_a_checkpoint_are_refused_and_change_nothing(broken):
    saved = checkpoint()
    saved["schedules"] = {**saved["schedules"], **broken} if isinstance(broken, dict) else broken
    optimizer = made(CODE, "checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"AdamW|from_json"):
            optimizer.load_state_dict(saved)
    assert optimizer.position == 0
    assert train(optimizer, range(2)) == expected(CODE, range(2))


@pytest.mark.parametrize("broken", ["both", 1, True])
def test_other_choices_are_refused(broken):
    with pytest.raises((ValueError, TypeError), match=r"AdamW: on_mismatch must be .*'error', 'checkpoint' or 'code'"):
        made(SAVED, broken)
    with pytest.raises((ValueError, TypeError), match=r"ScheduleLR: on_mismatch must be"):
        fs.lr_scheduler.ScheduleLR(torch.optim.SGD(params()), SAVED, on_mismatch=broken)


def test_many_differences_are_counted():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1} for _ in range(30)]
    saved = fs.optim.SGD(groups, schedule=SAVED, on_mismatch="error").state_dict()
    optimizer = fs.optim.SGD([{**group, "lr": 0.2} for group in groups], schedule=SAVED, on_mismatch="error")
    with pytest.raises(ValueError, match=r"group 9's lr: 0.1 in the checkpoint, 0.2 in the code; and 20 more"):
        optimizer.load_state_dict(saved)


# ---- ScheduleLR


def scheduler(schedule, on_mismatch):
    optimizer = torch.optim.SGD([{"params": [p], "lr": 0.1 * 0.5**i} for i, p in enumerate(params())])
    optimizer._opt_called = True  # torch would warn of a step without an update
    return fs.lr_scheduler.ScheduleLR(optimizer, schedule, on_mismatch=on_mismatch)


def steps(made, count):
    lrs = []
    for _ in range(count):
        made.step()
        lrs.append(made.get_last_lr())
    return lrs


def saved_by(schedule, on_mismatch="error"):
    made = scheduler(schedule, on_mismatch)
    steps(made, 3)
    return copy.deepcopy(made.state_dict())


def test_a_scheduler_names_the_fields():
    with pytest.raises(ValueError, match=rf"ScheduleLR: .*{FIELDS}"):
        scheduler(CODE, "error").load_state_dict(saved_by(SAVED))


@pytest.mark.parametrize(("choice", "used"), [("checkpoint", SAVED), ("code", CODE)])
def test_a_scheduler_goes_on_with_the_chosen_schedule(choice, used):
    made = scheduler(CODE, choice)
    with pytest.warns(UserWarning, match=rf"ScheduleLR: the {choice}'s schedule is used: {FIELDS}") as warned:
        made.load_state_dict(saved_by(SAVED))
    assert warned[0].filename == __file__
    assert steps(made, 4) == expected(used, range(4, 8))


def test_a_scheduler_holds_no_schedule_by_default():
    assert "schedule" not in saved_by(SAVED, None)
    made = scheduler(CODE, "error")
    made.load_state_dict(saved_by(SAVED, None))
    assert steps(made, 1) == expected(CODE, [4])


def test_a_checkpoint_with_a_schedule_is_ignored_by_default():
    made = scheduler(CODE, None)
    made.load_state_dict(saved_by(SAVED))
    assert steps(made, 1) == expected(CODE, [4])
    assert "schedule" not in made.state_dict()


def test_a_plan_is_compared_group_by_group():
    def planned(lr):
        return fs.Plan([{"lr": fs.Linear(0.1, 0.0, steps=8)}, {"lr": lr}])

    made = scheduler(planned(0.5), "checkpoint")
    with pytest.warns(UserWarning, match="group 1's lr: 0.25 in the checkpoint, 0.5 in the code"):
        made.load_state_dict(saved_by(planned(0.25)))
    assert steps(made, 1) == [[0.05, 0.25]]


def test_a_plan_of_another_number_of_groups_is_refused():
    saved = {**saved_by(SAVED), "schedule": fs.Plan([{"lr": 0.1}]).to_json()}
    made = scheduler(fs.Plan([{"lr": 0.1}, {"lr": 0.2}]), "checkpoint")
    with pytest.raises(ValueError, match="got 1 for 2"):
        made.load_state_dict(saved)


def test_a_copied_scheduler_keeps_its_choice():
    made = copy.deepcopy(scheduler(CODE, "error"))
    with pytest.raises(ValueError, match=FIELDS):
        made.load_state_dict(saved_by(SAVED))
