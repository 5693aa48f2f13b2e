"""The kernels that decide what an update is, run as loops on the CPU, against what the host computes."""

import ctypes
import math
from typing import Any

import device_tables as dt
import numpy as np
import pytest
from device_tables import FORMATS, HYPERS

import fastsched as fs
from fastsched._program import compile_program

LR, WEIGHT_DECAY, MOMENTUM, BETA1, BETA2 = range(5)
EMA = len(HYPERS)
SHAPE = fs.Cosine(steps=100).warmup(10)


@pytest.fixture(autouse=True, params=[False, True], ids=["", "backwards"])
def order_of_threads(request):
    """Within a phase threads may come in any order."""
    dt.library().run_threads_backwards(request.param)
    yield
    dt.library().run_threads_backwards(False)


class Device:
    """What a device keeps between steps, and one step's work: two groups, with two and one parameters."""

    def __init__(self, rule: str = "adam", **settings: Any) -> None:
        self.settings = dt.Settings(rule=dt.RULES.index(rule), norm=1, seed=11)
        for name, value in settings.items():
            setattr(self.settings, name, value)
        self.control = dt.Control(grad_norm=math.nan, position=7)
        self.report = dt.Report()
        self.values = np.array([[0.1, 0.01, 0.9, 0.9, 0.999], [0.02, 0.0, 0.0, 0.8, 0.95]])
        self.constants = (dt.Constants * 2)(dt.Constants(eps=1e-8, decoupled=True), dt.Constants(eps=1e-6))
        self.slots = (dt.Slot * 4)()
        self.steps = np.zeros(3, np.float32)
        self.tensors = (dt.DeviceTensor * 4)()
        self.prepared = (dt.Prepared * 4)()
        for index, tensor in enumerate(self.tensors):
            tensor.slot, tensor.place, tensor.group = index, 5 + index, int(index == 2)
            tensor.step = self.steps[index:].ctypes.data if index < 3 else 0
        self.tensors[3].averaged_only = True
        self.tensors[3].group = -1
        self.kept: list[Any] = []

    def keep(self, array: Any, dtype: Any = np.float64) -> int:
        """The address of what stays alive with the device."""
        self.kept.append(np.asarray(array, dtype) if not isinstance(array, ctypes.Array) else array)
        return dt.address(self.kept[-1])

    def table(self, schedules: list[Any]) -> tuple[int, int, int]:
        """Programs, their scratch and their number."""
        programs = (dt.Program * len(schedules))()
        for program, schedule in zip(programs, schedules, strict=True):
            code = compile_program(schedule)
            program.code = self.keep(code.instructions, code.instructions.dtype)
            program.size, program.samples = len(code.instructions), self.keep(code.samples)
        return self.keep(programs), self.keep(np.zeros(len(schedules))), len(schedules)

    def schedule(self, hyper: int, table: tuple[int, int, int], column: list[int], scale: list[float]) -> None:
        programs, scratch, count = table
        self.control.row[hyper] = dt.DeviceRow(programs, scratch, self.keep(column, np.int32), self.keep(scale), count)

    def run(self, phase: int = dt.WHOLE, *, scheduled: bool = True, **arguments: Any) -> None:
        given = {"given_norm": math.nan, "set_position": -1, "unscale": 1.0, "tensor_count": 4, **arguments}
        args = dt.ControlArgs(settings=self.settings, phase=phase, group_count=len(self.values), **given)
        for name in ("control", "report", "values", "constants", "slots", "tensors", "prepared"):
            setattr(args, name, dt.address(getattr(self, name)))
        dt.library().control_by_kernel(scheduled, ctypes.byref(args))

    def on_host(self, index: int, steps: int, **other: Any) -> bytes:
        """What the host would prepare for a parameter."""
        made, tensor = dt.Prepared(), self.tensors[index]
        given = {"unscale": 1.0, "clip": 1.0, "ema": 1.0, "fresh": 0, "values": self.values, **other}
        values = np.ascontiguousarray(given["values"][tensor.group])
        dt.library().prepared_on_host(
            ctypes.byref(self.settings),
            ctypes.c_void_p(dt.address(values)),
            ctypes.byref(self.constants[tensor.group]),
            *(ctypes.c_double(given[name]) for name in ("unscale", "clip", "ema")),
            ctypes.c_int64(steps),
            tensor.place,
            given["fresh"],
            ctypes.byref(made),
        )
        return content(made)

    def state(self) -> tuple[Any, ...]:
        """Everything that an update changes, but the report of how it went."""
        return (
            self.control.position,
            bytes(self.slots),
            self.steps.tobytes(),
            self.values.tobytes(),
        )


def content(prepared: Any) -> bytes:
    """Without the padding between its parts."""
    n = prepared.numbers
    numbers = [getattr(n, name) for name, _ in dt.Numbers._fields_]
    return np.array([*numbers, *prepared.bits, prepared.fresh], np.float64).tobytes()


def number(value: float, format: str = "float32") -> np.ndarray:
    """One number as a tensor holds it."""
    return dt.encode(np.array([value]), format)


# ---- norms


def gradients(format: str, sizes: tuple[int, ...], seed: int = 1) -> tuple[Any, list[np.ndarray]]:
    random = np.random.default_rng(seed)
    held = [dt.encode(random.standard_normal(size), format) for size in sizes]
    tensors = (dt.DeviceTensor * len(sizes))()
    for tensor, grad in zip(tensors, held, strict=True):
        tensor.at[1], tensor.format[1] = grad.ctypes.data, FORMATS.index(format)
        tensor.count, tensor.share, tensor.strided = len(grad), 1.0, -1
    return tensors, held


def norm(kind: int, tensors: Any, blocks: int, layouts: Any = None, made: float = 1.0) -> tuple[float, float]:
    partials, joined = np.full(blocks, math.nan), np.full(2, math.nan)
    dt.library().norm_by_kernel(
        kind,
        tensors,
        len(tensors),
        ctypes.c_void_p(dt.address(layouts)),
        blocks,
        ctypes.c_void_p(dt.address(partials)),
        ctypes.c_double(made),
        ctypes.c_void_p(dt.address(joined)),
    )
    return float(joined[0]), float(joined[1])


def exact(kind: int, values: list[np.ndarray], shares: list[float]) -> float:
    if kind == 2:
        return max(float(np.abs(one).max()) for one in values if one.size)
    terms = [np.abs(one) if kind == 0 else one * one for one in values]
    return math.fsum(share * float(t) for share, one in zip(shares, terms, strict=True) for t in one)


SIZES = (0, 1, 3, dt.CHUNK - 1, dt.CHUNK, 3 * dt.CHUNK + 5)
# Terms in one sum, each of which rounds by half an ulp; most sums are of far fewer.
TOLERANCE = 200 * 2.0**-53


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_the_norm_joins_all_gradients(kind, format):
    tensors, held = gradients(format, SIZES)
    values = [dt.decode(one, format) for one in held]
    assert norm(kind, tensors, 5)[0] == pytest.approx(exact(kind, values, [1.0] * len(SIZES)), rel=TOLERANCE)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_share_counts_in_sums_but_not_in_the_largest(kind):
    tensors, held = gradients("float32", (100, 5000))
    shares = [0.25, 0.5]
    for tensor, share in zip(tensors, shares, strict=True):
        tensor.share = share
    values = [dt.decode(one, "float32") for one in held]
    assert norm(kind, tensors, 2)[0] == pytest.approx(exact(kind, values, shares), rel=TOLERANCE)


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 4999])
def test_nan_among_gradients_stays(kind, place):
    tensors, held = gradients("float32", (100, 5000))
    held[1][place] = math.nan
    assert math.isnan(norm(kind, tensors, 2)[0])


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_an_infinite_gradient_makes_an_infinite_norm(kind):
    tensors, held = gradients("bfloat16", (100, 5000))
    held[0][7] = 0xFF80
    assert norm(kind, tensors, 2)[0] == math.inf


def test_a_norms_bits_do_not_depend_on_where_gradients_lie():
    tensors, held = gradients("float32", SIZES)
    aligned = norm(1, tensors, 3)
    moved = [np.concatenate([np.zeros(1, np.float32), one]) for one in held]
    for tensor, one in zip(tensors, moved, strict=True):
        tensor.at[1] = one[1:].ctypes.data
    assert norm(1, tensors, 3) == aligned


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_the_norm_of_a_strided_gradient_is_that_of_its_elements(kind):
    tensors, held = gradients("float32", (2 * 6000,))
    view = held[0].reshape(60, 200).T[:, ::2]  # 200 rows, 30 columns
    tensors[0].count, tensors[0].strided = view.size, 1
    layouts = np.array([-1, 2, 200, 30, 30, 1, 1, 400, 30, 1], np.int64)
    expected = exact(kind, [view.ravel().astype(np.float64)], [1.0])
    assert norm(kind, tensors, 1, layouts)[0] == pytest.approx(expected, rel=TOLERANCE)


def test_joining_says_whether_an_update_is_made():
    tensors, _ = gradients("float32", (10,))
    assert [norm(1, tensors, 1, made=made)[1] for made in (0.0, 1.0)] == [0.0, 1.0]


# ---- clipping and skipping


def test_partials_are_joined_and_unscaled_to_the_norm():
    device = Device(max_grad_norm=1.0)
    partials = np.array([9.0, 16.0] * 700)
    device.run(partials=dt.address(partials), partial_count=1400, unscale=0.5)
    assert device.control.grad_norm == 0.5 * math.sqrt(25 * 700)


def test_gradients_are_clipped_as_on_the_host():
    device = Device(max_grad_norm=1.0)
    expected = device.on_host(0, 0, clip=1.0 / (4.0 + 1e-6))
    device.run(given_norm=4.0)
    assert content(device.prepared[0]) == expected


def test_a_norm_below_the_limit_clips_nothing():
    device = Device(max_grad_norm=1.0)
    expected = device.on_host(0, 0)
    device.run(given_norm=0.5)
    assert content(device.prepared[0]) == expected


def test_without_a_limit_a_norm_is_only_kept():
    device = Device()
    expected = device.on_host(0, 0)
    device.run(given_norm=4.0)
    assert (content(device.prepared[0]), device.control.grad_norm) == (expected, 4.0)


@pytest.mark.parametrize("format", ["float32", "float64"])
def test_a_norm_may_be_given_on_the_device(format):
    device, given = Device(max_grad_norm=1.0), number(2.5, format)
    device.run(given_norm_at=dt.address(given), given_norm_format=FORMATS.index(format))
    assert device.control.grad_norm == 2.5


def test_joined_norms_are_unscaled_too():
    device, joined = Device(max_grad_norm=1.0), np.array([16.0, 1.0])
    device.run(joined=dt.address(joined), unscale=0.5)
    assert device.control.grad_norm == 2.0


def test_the_scale_on_the_device_divides_gradients_and_norm():
    device, scale = Device(max_grad_norm=100.0), number(3.0)
    expected = device.on_host(1, 0, unscale=1 / 3.0)
    partials = np.array([36.0])
    device.run(grad_scale=dt.address(scale), partials=dt.address(partials), partial_count=1)
    assert content(device.prepared[1]) == expected
    assert device.control.grad_norm == 6.0 * (1 / 3.0)


SPOILT = {
    "a norm of NaN": {"partials": math.nan},
    "an infinite norm": {"partials": math.inf},
    "an infinite norm given": {"given_norm": math.inf},
    "found_inf": {"found_inf": 1.0},
    "a scale of 0": {"grad_scale": 0.0},
    "an infinite scale": {"grad_scale": math.inf},
    "a negative scale": {"grad_scale": -2.0},
    "the host's word": {"skip": True},
}


@pytest.mark.parametrize("why", SPOILT)
def test_a_spoilt_update_changes_nothing_but_its_count(why):
    device = Device(max_grad_norm=1.0)
    device.schedule(LR, device.table([SHAPE]), [0, 0], [0.1, 0.2])
    before, arguments, held = device.state(), {}, []
    for name, value in SPOILT[why].items():
        if name in ("skip", "given_norm"):
            arguments[name] = value
        else:
            held.append(np.array([value], np.float64 if name == "partials" else np.float32))
            arguments[name] = dt.address(held[-1])
            if name == "partials":
                arguments["partial_count"] = 1
    device.run(**arguments)
    assert (device.state(), device.control.skip, device.control.skipped) == (before, 1, 1)


def test_an_update_after_a_skipped_one_is_made():
    device = Device()
    device.run(skip=True)
    device.run()
    assert (device.control.skip, device.control.skipped, device.control.position) == (0, 1, 8)


def test_where_no_rank_has_gradients_nothing_happens_at_all():
    device, joined = Device(max_grad_norm=1.0), np.array([0.0, 0.0])
    before = device.state()
    device.run(joined=dt.address(joined))
    assert (device.state(), device.control.skip, device.control.skipped) == (before, 1, 0)
    assert math.isnan(device.control.grad_norm)


# ---- a tensor's numbers and counts


@pytest.mark.parametrize("decay", range(6))
@pytest.mark.parametrize("rule", ["adam", "sgd", "lion"])
def test_numbers_are_the_hosts(rule, decay):
    device = Device(rule, decay=decay)
    device.constants[0].base, device.constants[1].base = 0.4, 0.1
    device.constants[1].maximize = device.constants[1].nesterov = True
    for index, steps in enumerate((0, 41, 12345)):
        device.slots[index] = dt.Slot(steps, 0)
        device.steps[index] = steps
    expected = [device.on_host(index, steps) for index, steps in enumerate((0, 41, 12345))]
    device.run()
    assert [content(one) for one in device.prepared[:3]] == expected


def test_an_update_counts_and_shows_it():
    device = Device()
    device.slots[1] = dt.Slot(3, 0)
    device.steps[1] = 3
    device.run()
    assert [slot.steps for slot in device.slots[:3]] == [1, 4, 1]
    assert device.steps.tolist() == [1.0, 4.0, 1.0]


def test_counts_stay_exact_where_float32_does_not():
    device, steps = Device(), 2**24 + 1
    device.slots[0] = dt.Slot(steps, 0)
    device.steps[0] = np.float32(steps)
    expected = device.on_host(0, steps)
    device.run()
    assert content(device.prepared[0]) == expected
    assert device.slots[0].steps == steps + 1


@pytest.mark.parametrize(("written", "taken"), [(5.0, 5), (2.0**30, 2**30), (math.nan, 0), (-3.0, 0), (1e30, 0)])
def test_a_count_that_somebody_wrote_is_taken_where_it_is_one(written, taken):
    device = Device()
    device.slots[0] = dt.Slot(77, 0)
    device.steps[0] = written
    expected = device.on_host(0, taken)
    device.run()
    assert content(device.prepared[0]) == expected
    assert device.slots[0].steps == taken + 1


def test_a_count_that_only_the_tensor_knows_is_taken_from_it():
    device = Device()
    device.slots[0] = dt.Slot(-1, 0)
    device.steps[0] = 9
    device.run()
    assert device.slots[0].steps == 10


def test_what_is_fresh_is_so_for_one_update():
    device = Device("sgd")
    for slot in device.slots:
        slot.fresh = 7
    device.run()
    assert [one.fresh for one in device.prepared] == [7] * 4
    # The second group's momentum is 0: its buffers stay fresh. A tensor without update has none.
    assert [slot.fresh for slot in device.slots[:3]] == [0, 0, dt.FRESH_MOMENTUM]
    assert device.slots[3].fresh & (dt.FRESH_EMA | dt.FRESH_MASTER) == 0


def test_a_fresh_buffer_starts_as_the_gradient():
    device = Device("sgd")
    device.slots[0].fresh = dt.FRESH_MOMENTUM
    device.run()
    assert [one.numbers.first_momentum for one in device.prepared[:2]] == [True, False]


def test_a_tensor_that_is_only_averaged_gets_the_decay_alone():
    device = Device()
    device.schedule(EMA, (0, 0, 0), [-1], [0.75])
    device.run(scheduled=False)
    averaged = dt.Prepared()
    averaged.numbers.ema = 0.75
    assert content(device.prepared[3]) == content(averaged)
    assert device.slots[3].steps == 0


# ---- schedules


def test_an_update_moves_the_schedule_on():
    device = Device()
    device.schedule(LR, device.table([SHAPE]), [0, 0], [0.1, 0.3])
    device.run()
    assert device.control.position == 8
    assert device.values[:, LR].tolist() == [0.1 * SHAPE(8), 0.3 * SHAPE(8)]


def test_an_update_uses_what_stands_in_its_group_and_then_the_schedule_resumes():
    device = Device()
    device.schedule(LR, device.table([SHAPE]), [0, 0], [0.1, 0.3])
    device.values[0, LR] = 42.0
    expected = device.on_host(0, 0)
    device.run()
    assert content(device.prepared[0]) == expected
    assert device.values[0, LR] == 0.1 * SHAPE(8)


def test_every_kind_of_schedule_has_the_hosts_bits():
    random = np.random.default_rng(0)
    schedules = [
        SHAPE,
        fs.Cosine(1.0, -0.5, steps=50),
        fs.Polynomial(steps=60, power=2.5),
        fs.Exponential(gamma=0.97),
        fs.Tanh(steps=70),
        fs.CosineRestarts(first=5, multiplier=2, decay=0.9),
        fs.OneCycle(steps=90),
        fs.WarmupStableDecay(warmup=5, stable=10, decay=20, shape="sqrt").repeat(2),
        fs.tabulate(lambda t: float(random.standard_normal()), 60),
        (fs.InverseSqrt(timescale=7) * fs.Rex(steps=80)).clip(0.1, 0.7),
    ]
    device = Device()
    count = len(schedules)
    device.values = np.zeros((count, len(HYPERS)))
    device.constants = (dt.Constants * count)()
    device.schedule(LR, device.table(schedules), list(range(count)), [1.0] * count)
    for position in (0, 1, 3, 12, 33, 49, 58):
        device.control.position = position
        device.run(dt.ADVANCE)
        assert device.values[:, LR].tolist() == [s(position + 1) for s in schedules]


def test_hyperparameters_may_share_a_table_of_programs():
    device, table = Device(), None
    table = device.table([SHAPE, fs.Linear(0.5, 1.0, steps=20)])
    device.schedule(LR, table, [0, 1], [0.1, 0.2])
    device.schedule(BETA1, table, [1, 0], [0.9, 0.7])
    device.schedule(EMA, table, [1], [1.0])
    device.run()
    linear = fs.Linear(0.5, 1.0, steps=20)
    assert device.values[:, LR].tolist() == [0.1 * SHAPE(8), 0.2 * linear(8)]
    assert device.values[:, BETA1].tolist() == [0.9 * linear(8), 0.7 * SHAPE(8)]
    assert device.prepared[0].numbers.ema == linear(7)


def test_a_group_that_lacks_a_name_keeps_what_it_holds():
    device = Device()
    device.schedule(MOMENTUM, device.table([SHAPE]), [0, 0], [0.5, math.nan])
    device.run()
    assert device.values[:, MOMENTUM].tolist() == [0.5 * SHAPE(8), 0.0]


def test_a_constant_in_a_scheduled_row_is_restored():
    device = Device()
    device.schedule(WEIGHT_DECAY, device.table([SHAPE]), [-1, 0], [0.05, 0.1])
    device.run()
    assert device.values[:, WEIGHT_DECAY].tolist() == [0.05, 0.1 * SHAPE(8)]


@pytest.mark.parametrize("format", FORMATS)
def test_an_lr_in_a_tensor_is_used_as_it_stands_and_rounded_once(format):
    device, held = Device(), [number(0.3, format), number(0.07, format)]
    tensors = (dt.LrTensor * 2)(*(dt.LrTensor(dt.address(one), FORMATS.index(format)) for one in held))
    device.schedule(LR, device.table([SHAPE]), [0, 0], [0.1, 0.3])
    values = device.values.copy()
    values[:, LR] = [float(dt.decode(one, format)[0]) for one in held]
    expected = [device.on_host(index, 0, values=values) for index in range(3)]
    before = device.values.copy()
    device.run(lr_tensors=dt.address(tensors))
    assert [content(one) for one in device.prepared[:3]] == expected
    exact = [0.1 * SHAPE(8), 0.3 * SHAPE(8)]
    spacing = {"float32": 2.0**-24, "float64": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}[format]
    assert [float(dt.decode(one, format)[0]) for one in held] == pytest.approx(exact, rel=spacing, abs=0)
    assert np.array_equal(device.values, before)


@pytest.mark.parametrize(("decay", "used"), [(-0.5, 0.0), (0.25, 0.25), (1.5, 1.0), (math.nan, 1.0)])
def test_the_averages_decay_is_taken_at_the_position_and_kept_within_0_and_1(decay, used):
    device = Device()
    device.schedule(EMA, (0, 0, 0), [-1], [decay])
    device.run(scheduled=False)
    assert {one.numbers.ema for one in device.prepared} == {used}


def test_without_a_schedule_only_the_position_moves():
    device = Device()
    before = device.values.copy()
    device.run(scheduled=False)
    assert device.control.position == 8
    assert np.array_equal(device.values, before)


# ---- phases and edits


@pytest.mark.parametrize("phase", range(5))
def test_edits_come_first_in_every_phase(phase):
    device = Device()
    hypers = (dt.HyperEdit * 2)(dt.HyperEdit(0, BETA2, 0.5), dt.HyperEdit(1, LR, 0.25))
    slots = (dt.SlotEdit * 1)(dt.SlotEdit(2, dt.FRESH_EMA, 20))
    device.steps[2] = 20
    device.run(
        phase,
        hyper_edits=dt.address(hypers),
        hyper_edit_count=2,
        slot_edits=dt.address(slots),
        slot_edit_count=1,
        set_position=100,
    )
    assert (device.values[0, BETA2], device.values[1, LR]) == (0.5, 0.25)
    assert device.control.position == 100 + (phase in (dt.WHOLE, dt.ADVANCE))
    assert device.slots[2].steps == 20 + (phase in (dt.WHOLE, dt.TENSORS))


def test_the_last_of_two_edits_stands():
    device = Device()
    hypers = (dt.HyperEdit * 2)(dt.HyperEdit(1, LR, 0.5), dt.HyperEdit(1, LR, 0.25))
    slots = (dt.SlotEdit * 2)(dt.SlotEdit(0, 0, 20), dt.SlotEdit(0, 0, 10))
    device.run(
        dt.EDITS,
        hyper_edits=dt.address(hypers),
        hyper_edit_count=2,
        slot_edits=dt.address(slots),
        slot_edit_count=2,
    )
    assert (device.values[1, LR], device.slots[0].steps) == (0.25, 10)


def test_an_edit_of_an_lr_in_a_tensor_goes_there():
    device, held = Device(), number(0.3)
    tensors = (dt.LrTensor * 2)(dt.LrTensor(dt.address(held), 0), dt.LrTensor(0, 0))
    edits = (dt.HyperEdit * 2)(dt.HyperEdit(0, LR, 0.5), dt.HyperEdit(1, LR, 0.25))
    device.run(dt.EDITS, lr_tensors=dt.address(tensors), hyper_edits=dt.address(edits), hyper_edit_count=2)
    assert (held[0], device.values[0, LR], device.values[1, LR]) == (0.5, 0.1, 0.25)


def test_tensors_one_by_one_and_an_advance_make_a_whole_step():
    whole, parts = Device(), Device()
    for device in (whole, parts):
        device.schedule(LR, device.table([SHAPE]), [0, 0], [0.1, 0.3])
    whole.run()
    for _ in range(1):
        parts.run(dt.TENSORS)
    assert parts.control.position == 7
    parts.run(dt.ADVANCE)
    assert parts.state() == whole.state()
    assert [content(one) for one in parts.prepared] == [content(one) for one in whole.prepared]


def test_a_probe_counts_nothing_and_moves_no_average():
    device = Device()
    device.schedule(EMA, (0, 0, 0), [-1], [0.5])
    for slot in device.slots:
        slot.fresh = 7
    values = device.values.copy()
    device.run(dt.PROBE, scheduled=False, tensor_count=3)
    assert (device.control.position, device.control.skip, device.steps.tolist()) == (7, 0, [0.0] * 3)
    assert [(slot.steps, slot.fresh) for slot in device.slots[:3]] == [(0, dt.FRESH_MOMENTUM)] * 3
    assert {(one.numbers.ema, one.fresh) for one in device.prepared[:3]} == {(1.0, 7)}
    assert np.array_equal(device.values, values)


@pytest.mark.parametrize("phase", range(5))
def test_every_run_is_reported(phase):
    device = Device(max_grad_norm=1.0)
    device.run(phase, given_norm=3.0)
    device.run(phase, given_norm=3.0, skip=True)
    for name in ("position", "skipped", "sequence"):
        assert getattr(device.report, name) == getattr(device.control, name)
    assert device.report.sequence == 2
    assert device.report.grad_norm == pytest.approx(device.control.grad_norm, nan_ok=True)


# ---- the self-test


def test_the_probe_kernel_makes_the_hosts_values_and_the_cpu_steps_element():
    schedule = fs.Cosine(1.0, -0.5, steps=50)
    code = compile_program(schedule)
    steps = np.array([0.0, 1.0, 20.5, 49.0, 60.0])
    values, element = np.zeros(5), np.array([0.5, -1.25, 0.1, 0.2], np.float32)
    device = Device()
    device.values[0] = [0.1, 0.01, 0.0, 0.9, 0.999]
    made = dt.Prepared()
    dt.library().prepared_on_host(
        ctypes.byref(device.settings),
        ctypes.c_void_p(dt.address(device.values)),
        ctypes.byref(device.constants[0]),
        *(ctypes.c_double(1.0),) * 3,
        ctypes.c_int64(2),
        0,
        0,
        ctypes.byref(made),
    )
    expected = element.copy()
    tensor = dt.DeviceTensor(count=1, strided=-1)
    for operand, index in enumerate((1, 0, 2, 3)):  # parameter, gradient, averages
        tensor.at[operand] = dt.address(expected[index:])
    dt.library().step_on_cpu(ctypes.byref(tensor), ctypes.byref(made), 1, 0, None)
    args = dt.ProbeArgs(
        code=dt.address(code.instructions),
        size=len(code.instructions),
        samples=dt.address(code.samples),
        steps=dt.address(steps),
        values=dt.address(values),
        count=5,
        element=dt.address(element),
        lr=0.1,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.01,
        update=3.0,
    )
    dt.library().probe_by_kernel(True, ctypes.byref(args))
    assert values.tolist() == schedule(steps).tolist()
    assert element.tobytes() == expected.tobytes()
