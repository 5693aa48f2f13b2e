"""The command line: what it prints, what it returns, and that errors are one line."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support import output

import fastsched as fs
from fastsched import _writing, cli, recipes

CURVE = "warmup(5) > cosine(15, end=0.1)"
SCHEDULE = fs.Cosine(end=0.1, steps=15).warmup(5)


def run(*arguments, status=0):
    """A command's result; its exit status is checked."""
    result = CliRunner().invoke(cli.command, list(map(str, arguments)), prog_name="fastsched")
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result


def printed(*arguments, status=0):
    return run(*arguments, status=status).stdout


def refused(*arguments, status=1):
    """What a refusal says: its last lines, from Error on, and nothing on the standard output."""
    result = run(*arguments, status=status)
    assert result.stdout == ""
    return result.stderr[result.stderr.index("Error: ") :]


def process(*arguments, **options):
    """A real process of the command, which Ctrl-C reaches also where these tests run in a shell's background."""
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = heard + "import sys; from fastsched.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-W", "error", "-c", code, *map(str, arguments)]
    root = os.path.dirname(os.path.dirname(os.path.abspath(fs.__file__)))
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **options.pop("environment", {})}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **{**pipes, **options})


# ---- the command itself ----


def test_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastsched {version('fastsched')}\n"


def test_help_names_the_commands_and_how_to_complete_them(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in cli.command.commands:
        assert f"  {name} " in text
    assert 'eval "$(_FASTSCHED_COMPLETE=bash_source fastsched)"' in text


@pytest.mark.parametrize("name", cli.command.commands)
def test_every_command_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert f"Usage: fastsched {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "No such command 'dmo'"),
        (["demo", "--stepz", "3"], "No such option"),
        (["demo", "--steps", "1"], "1 is not in the range"),
        (["demo", "--steps", "many"], "'many' is not a valid integer"),
        (["demo", "--seed", "-1"], "-1 is not in the range"),
        (["demo", "--out", "."], "is a directory"),
        (["table"], "Missing argument 'SPEC'"),
        (["table", "constant(1)"], "--steps must be given for a schedule without an end"),
        (["table", "rex(5)", "--start", 2**53], "--start and --steps must end by 2**53"),
        (["table", "rex(5)", "--groups", "decay=2,n=3"], "must have decay in (0, 1], n in 1..131072"),
        (["table", "rex(5)", "--groups", "decay=x,n=3"], "'decay=x,n=3' must be like decay=0.75,n=12"),
        (["table", "rex(5)", "--groups", "n=3"], "'n=3' must be like decay=0.75,n=12"),
        (["table", "rex(5)", "--groups", "decay=1,n=3,m=1"], "and nothing else"),
        (["table", "rex(5)", "--scales", "missing.txt"], "cannot read missing.txt: No such file or directory"),
        (["table", "rex(5)", "--lr", "nan"], "--lr must be finite"),
        (["table", "rex(5)", "--dtype", "int8"], "'int8' is not one of"),
        (["table", "rex(5)", "-o", "lr.xls"], "-o must end in one of .csv, .json, .npy, .npz, .parquet, got 'xls'"),
        (["plot", "constant(1)", "-o", "x.png"], "--steps must be given for schedules without an end"),
        (["plot", "rex(5)", "-o", "x.doc"], ", .pdf, .pgf, .png, .ps, .raw, .rgba, .svg, .svgz, "),
        (["plot", "-o", "x.png"], "Missing argument 'SPEC...'"),
        (["lint", "missing.json"], "there must be such a file, got 'missing.json'"),
        (["recipes", "brt"], "name must be a known one, got 'brt'; did you mean bert?"),
        (["find", "nothing"], "must be module:function or script.py:function, got 'nothing'"),
        (["find", "missing.py:f"], "there must be such a file, got 'missing.py'"),
        (["find", "no_such_module_at_all:f"], "there must be such a module, got 'no_such_module_at_all'"),
        (["find", "math:no_function"], "math must have a function 'no_function', got none"),
        (["bench", "--groups", "0"], "0 is not in the range"),
    ],
)
def test_a_wrong_call_returns_2_and_says_why(arguments, message, capsys):
    assert cli.main(list(map(str, arguments))) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("name", ["table", "plot", "lint", "compare"])
def test_a_wrong_spec_is_shown_with_its_column(name):
    message = refused(name, "warmup(5) > cosin(9)", status=2)
    assert "got 'cosin'; did you mean cosine or cosine_restarts?" in message
    assert message.endswith("\n  warmup(5) > cosin(9)\n              ^\n")


def test_a_spec_may_come_from_a_file_or_the_standard_input(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(SCHEDULE.to_json())
    expected = printed("table", CURVE)
    assert printed("table", path) == expected
    result = CliRunner().invoke(cli.command, ["table", "-"], input=CURVE)
    assert result.stdout == expected


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "schedule.json"
    path.write_text("rex(5)")

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_text", denied)
    assert f"cannot read {path}: Permission denied" in refused("table", path, status=2)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_click_completes_in_shells(shell):
    done = process(environment={"_FASTSCHED_COMPLETE": f"{shell}_source"})
    script, errors = done.communicate()
    assert done.returncode == 0, errors
    assert "_FASTSCHED_COMPLETE" in script


def test_completion_knows_kinds_and_recipes():
    environment = {"_FASTSCHED_COMPLETE": "bash_complete", "COMP_WORDS": "fastsched table cos", "COMP_CWORD": "2"}
    done = process(environment=environment)
    text, errors = done.communicate()
    assert done.returncode == 0, errors
    assert text.split() == ["plain,cosine(", "plain,cosine_restarts("]


def test_importing_the_package_loads_no_command_line():
    code = "import sys, fastsched; print(any(name in sys.modules for name in ('click', 'fastsched.cli')))"
    assert output(code) == "False"


def test_help_imports_no_more_than_it_needs():
    code = """
        import contextlib, io, sys
        from fastsched.cli import main
        with contextlib.redirect_stdout(io.StringIO()):
            main(["--help"])
        print([n for n in ("torch", "matplotlib", "rich", "numba", "fastsched.spec", "pyarrow") if n in sys.modules])
    """
    assert output("\n".join(line[8:] for line in code.split("\n"))) == "[]"


# ---- table ----


def rows_of(text):
    head, *rows = csv.reader(io.StringIO(text))
    return head, np.array(rows, np.float64)


def test_a_table_as_csv_gives_every_float64_back():
    head, rows = rows_of(printed("table", CURVE, "--steps", 40, "--start", 3))
    assert head == ["step", "lr"]
    assert rows[:, 0].tolist() == list(range(3, 43))
    assert rows[:, 1].tolist() == SCHEDULE.table(40, start=3).tolist()


def test_a_table_as_csv_of_float32_has_the_shortest_texts():
    text = printed("table", "linear(0.1, 0.2, 10)", "--dtype", "float32")
    assert text.split("\n")[1] == "0,0.1"
    assert (
        rows_of(text)[1][:, 1].astype(np.float32).tolist()
        == fs.Linear(0.1, 0.2, steps=10).table(10, dtype=np.float32).tolist()
    )


def test_groups_have_the_scales_of_layer_wise_decay():
    head, rows = rows_of(printed("table", CURVE, "--groups", "decay=0.5,n=3", "--lr", "0.01"))
    assert head == ["step", "layer0", "layer1", "layer2"]
    expected = fs.lr_table(SCHEDULE, 20, scale=[0.0025, 0.005, 0.01], dtype=np.float64)
    assert rows[:, 1:].tolist() == expected.tolist()


def test_scales_come_from_a_file(tmp_path):
    path = tmp_path / "scales.txt"
    path.write_text("# name, scale\nembeddings, 0.25\n\n0.5\nthe head,1\n")
    head, rows = rows_of(printed("table", "constant(2, 3)", "--scales", path))
    assert head == ["step", "embeddings", "group1", "the head"]
    assert rows[0].tolist() == [0.0, 0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0.5\nx\n", ":2 must be a number, or a name, a comma and a number"),
        ("", "must have 1..131072 finite numbers, got 0"),
        ("inf\n", "must have 1..131072 finite numbers, got 1"),
        ("a,1\na,2\n", "names must differ, and none be 'step'"),
        ("step,1\n", "names must differ, and none be 'step'"),
    ],
)
def test_a_wrong_file_of_scales_is_refused_at_its_line(content, message, tmp_path):
    path = tmp_path / "scales.txt"
    path.write_text(content)
    assert message in refused("table", "rex(5)", "--scales", path, status=2)


def test_groups_and_scales_exclude_each_other(tmp_path):
    path = tmp_path / "scales.txt"
    path.write_text("1\n")
    message = refused("table", "rex(5)", "--groups", "decay=1,n=2", "--scales", path, status=2)
    assert "pass --groups or --scales, not both" in message


def test_a_table_as_json(tmp_path):
    data = json.loads(printed("table", CURVE, "--json", "--steps", 30))
    assert data["lr"] == SCHEDULE.table(30)[:, None].tolist()
    assert (data["start"], data["steps"], data["names"]) == (0, 30, ["lr"])
    path = tmp_path / "lr.json"
    run("table", CURVE, "-o", path, "--steps", 30)
    assert json.loads(path.read_text()) == data


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_npz_holds_the_table_and_what_it_is_of_without_pickle(dtype, block, tmp_path, monkeypatch):
    monkeypatch.setattr(_writing, "BLOCK", block)
    path = tmp_path / "lr.npz"
    run("table", CURVE, "--steps", 30, "--start", 2, "--groups", "decay=0.5,n=3", "--dtype", dtype, "-o", path)
    with np.load(path, allow_pickle=False) as data:
        expected = fs.lr_table(SCHEDULE, 30, scale=[0.25, 0.5, 1.0], start=2, dtype=dtype)
        assert data["lr"].dtype == expected.dtype
        assert data["lr"].tobytes() == expected.tobytes()
        assert data["start"] == 2
        assert data["names"].tolist() == ["layer0", "layer1", "layer2"]
        assert data["scale"].tolist() == [0.25, 0.5, 1.0]
        assert fs.from_json(str(data["schedule"])) == SCHEDULE


def test_npy_holds_the_table(tmp_path):
    path = tmp_path / "lr.npy"
    run("table", CURVE, "-o", path)
    assert np.load(path, allow_pickle=False).tobytes() == SCHEDULE.table(20)[:, None].tobytes()


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_parquet_has_a_column_for_each_group(block, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(_writing, "BLOCK", block)
    path = tmp_path / "lr.parquet"
    run("table", CURVE, "--groups", "decay=0.5,n=3", "--dtype", "float32", "-o", path)
    made = parquet.read_table(path)
    expected = fs.lr_table(SCHEDULE, 20, scale=[0.25, 0.5, 1.0])
    assert made.column_names == ["step", "layer0", "layer1", "layer2"]
    assert made["step"].to_pylist() == list(range(20))
    for i in range(3):
        assert made[f"layer{i}"].to_numpy().tolist() == expected[:, i].tolist()


def test_parquet_without_pyarrow_gives_the_fix_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refused("table", "rex(5)", "-o", tmp_path / "lr.parquet")
    assert message == "Error: table: parquet needs pyarrow, which is not installed; pip install pyarrow\n"
    assert list(tmp_path.iterdir()) == []


def test_the_format_may_be_named_where_the_ending_is_none(tmp_path):
    path = tmp_path / "lr"
    run("table", "rex(5)", "--format", "npy", "-o", path)
    assert len(np.load(path)) == 5


def test_a_binary_table_goes_to_a_pipe():
    result = run("table", "rex(5)", "-o", "-", "--format", "npz")
    with np.load(io.BytesIO(result.stdout_bytes)) as data:
        assert data["lr"].tolist() == fs.Rex(steps=5).table(5)[:, None].tolist()


def test_json_reports_the_file_that_was_written(tmp_path):
    path = tmp_path / "lr.npy"
    data = json.loads(printed("table", "rex(5)", "-o", path, "--json"))
    assert data == {"file": str(path), "format": "npy", "steps": 5, "start": 0, "groups": 1, "bytes": 128 + 40}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", 2**53, "-o", "lr.npz"], f"2**42 bytes, got {2**53} steps of 1 groups, which take {2**56}"),
        (["--steps", 2**40], f"2**42 bytes, got {2**40} steps of 1 groups, which take {12 * 2**40}"),
        (
            ["--steps", 10**9, "--groups", "decay=1,n=131072", "-o", "lr.npy", "--dtype", "float32"],
            "which take 524288000000000; pass fewer --steps",
        ),
    ],
)
def test_an_absurd_table_is_refused_with_its_bytes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("table", "constant(1)", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_table_larger_than_the_disk_is_refused_with_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    message = refused("table", "rex(1000)", "-o", tmp_path / "lr.npy")
    assert message == f"Error: {tmp_path} must have 8000 free bytes for 1000 steps of 1 groups, got 1000\n"


def test_a_table_in_no_folder_is_refused_in_one_line(tmp_path):
    path = tmp_path / "missing" / "lr.npz"
    assert refused("table", "rex(5)", "-o", path) == f"Error: cannot write {path}: No such file or directory\n"


def test_a_link_is_kept_and_what_it_leads_to_is_written(tmp_path):
    path, link = tmp_path / "lr.npy", tmp_path / "latest.npy"
    link.symlink_to(path)
    run("table", "rex(5)", "-o", link)
    assert link.is_symlink()
    assert len(np.load(path)) == 5


def test_json_has_no_number_for_infinity(tmp_path):
    path = tmp_path / "lr.json"
    message = refused("table", "constant(1e200, 3) * 1e200", "-o", path)
    assert message == "Error: table: json must have finite numbers, got others at step 0; pass csv or npz\n"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "lr.npy"
    path.write_text("old")

    def full(table, file, form):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_writing, "write", full)
    assert refused("table", "rex(5)", "-o", path) == "Error: No space left on device\n"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(table, file, form):
        raise KeyboardInterrupt

    monkeypatch.setattr(_writing, "write", interrupted)
    result = run("table", "rex(5)", "-o", tmp_path / "lr.npy", status=1)
    assert "Aborted!" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_has_the_usual_permissions(tmp_path):
    path, usual = tmp_path / "lr.npy", tmp_path / "usual"
    usual.touch()
    run("table", "rex(5)", "-o", path)
    assert path.stat().st_mode == usual.stat().st_mode


def test_a_device_is_written_to_and_not_replaced():
    run("table", "rex(5)", "-o", os.devnull, "--format", "csv")
    assert not os.path.isfile(os.devnull)


def test_a_reader_that_closes_the_pipe_early_sees_no_traceback():
    with process("table", "rex(200000)") as done:
        assert done.stdout.readline() == "step,lr\n"
        done.stdout.close()
        errors = done.stderr.read()
    assert done.returncode == 1
    assert errors == ""


def test_ctrl_c_ends_in_one_line_and_leaves_no_file(tmp_path):
    done = process(
        "table", "-", "-o", tmp_path / "lr.npy", stdin=subprocess.PIPE, environment={"PYTHONUNBUFFERED": "1"}
    )
    done.stdin.write("rex(5)\n" * 10_000)  # more than a pipe holds: once it is gone, the process reads
    done.stdin.flush()
    done.send_signal(signal.SIGINT)
    _, errors = done.communicate()
    assert done.returncode == 1
    assert errors == "\nAborted!\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def terminal(monkeypatch):
    """The standard output of a command is a terminal."""
    monkeypatch.setattr(cli, "_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")


def test_a_terminal_shows_some_rows_of_a_table(terminal):
    text = printed("table", "linear(1, 0, 1000)", "--groups", "decay=0.5,n=20")
    assert "layer0" in text
    assert "layer19" in text
    assert "layer1 " not in text
    assert "0.5" in text
    assert "21 of 1,000 rows, 4 of 20 columns; all: -o lr.csv" in text


def test_a_terminal_without_rich_shows_the_same_rows(terminal, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    text = printed("table", "linear(1, 0, 4)")
    assert text.split("\n")[1:6] == ["step    lr", "   0     1", "   1  0.75", "   2   0.5", "   3  0.25"]


def test_a_terminal_gets_no_binary_table(terminal):
    assert "npy is not for a terminal; pass -o FILE" in refused("table", "rex(5)", "--format", "npy", status=2)


# ---- lint, compare, recipes ----


def test_lint_names_what_is_odd_and_returns_1():
    text = printed("lint", "linear(0, 1, 4) > linear(0.5, 0, 4)", status=1)
    assert "warning: it jumps where two parts meet, at step 4" in text
    assert "[jump]" in text


@pytest.mark.parametrize(("level", "status"), [("info", 1), ("warning", 0), ("error", 0), ("never", 0)])
def test_lint_fails_on_the_level_that_is_asked_for(level, status):
    run("lint", CURVE, "--fail-on", level, status=status)


def test_lint_as_json_is_the_report():
    data = json.loads(printed("lint", "linear(0, 1, 4) > linear(0.5, 0, 4)", "--json", status=1))
    report = fs.Linear(0.0, 1.0, steps=4).then(fs.Linear(0.5, 0.0, steps=4)).lint([1.0])
    assert [finding["code"] for finding in data] == list(report.codes)
    assert data[0] == {
        "code": report[0].code,
        "severity": report[0].severity,
        "message": report[0].message,
        "steps": list(report[0].steps),
    }


def test_lint_sees_the_groups():
    absolute = "warmup(5) > cosine(15, 1e-3, 1e-5)"
    text = printed("lint", absolute, "--groups", "decay=0.1,n=5", "--lr", "1e-3", status=1)
    assert "[floor-above-base]" in text
    assert "floor-above-base" not in printed("lint", absolute)


def test_compare_returns_0_for_equal_curves():
    assert "equal over all 20 updates" in printed("compare", CURVE, SCHEDULE.to_json())


def test_compare_says_where_curves_differ_and_returns_1():
    assert "they differ at 9 of 10 updates, first at 1" in printed("compare", "cosine(10)", "rex(10)", status=1)


def test_compare_has_a_tolerance():
    run("compare", "cosine(10)", "1.001 * cosine(10)", "--tolerance", "0.01")


def test_compare_as_json():
    data = json.loads(printed("compare", "cosine(10)", "rex(10)", "--json", "--steps", 4, status=1))
    assert data["equal"] is False
    assert (data["steps"], data["first"], data["different"]) == (4, 1, 3)


def test_compare_of_endless_curves_needs_steps():
    message = refused("compare", "constant(1)", "constant(2)")
    assert message.startswith("Error: compare: steps must be given for schedules without an end")
    assert message.count("\n") == 1


def test_compare_saves_a_picture(tmp_path):
    path = tmp_path / "both.png"
    run("compare", "cosine(10)", "rex(10)", "-o", path, status=1)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_recipes_lists_all_of_them():
    text = printed("recipes")
    assert all(name in text for name in recipes.names())
    assert [entry["name"] for entry in json.loads(printed("recipes", "--json"))] == list(recipes.names())


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_shows_one_with_its_settings(name):
    text = printed("recipes", name)
    assert text.startswith(f"{name}(")
    assert "When:" in text
    data = json.loads(printed("recipes", name, "--json"))
    assert data["lr"] == recipes.about(name).lr


# ---- plot ----

needs_plot = pytest.mark.skipif(not hasattr(fs.Schedule, "plot"), reason="schedules have no plot() yet")


@needs_plot
@pytest.mark.parametrize("specs", [["cosine(10)"], ["cosine(10)", "rex(20)", "constant(0.5)"]])
@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_saves_a_picture(specs, ending, magic, tmp_path):
    path = tmp_path / f"lr.{ending}"
    assert printed("plot", *specs, "-o", path) == f"{path}\n"
    assert path.read_bytes().startswith(magic)


@needs_plot
def test_plot_as_json_says_what_is_drawn(tmp_path):
    path = tmp_path / "lr.png"
    data = json.loads(printed("plot", "cosine(10)", "rex(20)", "-o", path, "--json"))
    assert data["steps"] == 20
    assert data["file"] == str(path)


def test_plot_without_matplotlib_gives_the_fix_in_one_line(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "Error: a picture needs matplotlib, which is not installed; pip install 'fastsched[plot]'\n"
    assert refused("plot", "cosine(10)") == message


# ---- find ----

SCRIPT = """
import torch

def setup():
    model = torch.nn.Linear(2, 1)
    return model, torch.nn.functional.mse_loss, [(torch.ones(4, 2), torch.ones(4, 1))]

def options():
    model, loss_fn, batches = setup()
    return {"model": model, "loss_fn": loss_fn, "batches": batches, "low": 1e-3, "steps": 7}

def nothing():
    return None

def broken():
    raise RuntimeError("no data at /data")
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A user's script, and a range test that says what it has been asked for."""

    def find_lr(model, loss_fn, batches, **options):
        assert isinstance(model, torch.nn.Module)
        assert callable(loss_fn)
        assert len(batches) == 1
        lrs = np.array([options.get("low", 1e-7), 1.0])
        return SimpleNamespace(lrs=lrs, losses=np.array([2.0, np.inf]), suggestion=0.5, options=options)

    monkeypatch.setattr(fs, "find_lr", find_lr, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine_to_find.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("where", ["mine_to_find.py", "mine_to_find"])
def test_find_runs_the_range_test_on_what_a_function_returns(where, script):
    data = json.loads(printed("find", f"{where}:setup", "--json"))
    assert data == {"suggestion": 0.5, "lrs": [1e-7, 1.0], "losses": [2.0, None]}


def test_find_takes_a_dict_of_arguments_and_options_that_win(script):
    assert json.loads(printed("find", f"{script}:options", "--json"))["lrs"][0] == 1e-3
    assert json.loads(printed("find", f"{script}:options", "--json", "--low", "1e-5"))["lrs"][0] == 1e-5
    assert "'steps': 7" in printed("find", f"{script}:options")


def test_find_of_something_else_says_what_to_return(script):
    message = refused("find", f"{script}:nothing")
    assert message == f"Error: {script}:nothing must return (model, loss_fn, batches) or a dict, got NoneType\n"


def test_an_error_of_the_users_function_is_one_line_with_its_place(script):
    message = refused("find", f"{script}:broken")
    place = "RuntimeError at mine_to_find.py:16: no data at /data"
    assert message == f"Error: {script}:broken: {place}; --traceback shows more\n"
    result = CliRunner().invoke(cli.command, ["find", f"{script}:broken", "--traceback"])
    assert isinstance(result.exception, RuntimeError)


def test_a_script_that_does_not_import_is_one_line(script):
    script.write_text("import no_such_module_at_all\n")
    message = refused("find", f"{script}:setup")
    assert "ModuleNotFoundError at mine_to_find.py:1: No module named 'no_such_module_at_all'" in message


def test_a_refusal_of_the_range_test_is_one_line(script, monkeypatch):
    def find_lr(model, loss_fn, batches, **options):
        raise ValueError("find_lr: low must be > 0, got -1.0; pass 1e-7")

    monkeypatch.setattr(fs, "find_lr", find_lr, raising=False)
    assert refused("find", f"{script}:setup") == "Error: find_lr: low must be > 0, got -1.0; pass 1e-7\n"


# ---- bench ----


def test_bench_has_rows_of_positive_times():
    data = json.loads(printed("bench", "--groups", 3, "--rounds", 1, "--json"))
    assert [row["work"] for row in data["rows"]] == [
        "10,000 rows of lrs",
        "scheduler.step()",
        "optimizer and scheduler",
    ]
    for row in data["rows"]:
        assert row["torch_seconds"] > 0.0
        assert row["ratio"] == row["torch_seconds"] / row["fastsched_seconds"]


def test_bench_prints_a_table():
    text = printed("bench", "--groups", 2, "--rounds", 1)
    assert "AdamW(fused=True) + CosineAnnealingLR" in text


def test_bench_without_torch_gives_the_fix_in_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "fastsched._bench", raising=False)
    monkeypatch.delattr("fastsched._bench", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert refused("bench") == "Error: the bench needs torch, which is not installed; pip install 'fastsched[torch]'\n"


# ---- demo ----


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/picture.png", "No such file or directory"),
        ("picture.xyz", "must end in one of"),
    ],
)
def test_a_picture_that_cannot_be_written_stops_the_demo_before_training(name, message, tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path / name)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("extra", ["torch", "sklearn", "matplotlib", "rich"])
def test_a_missing_extra_gives_the_fix_in_one_line(extra, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "fastsched.demo", raising=False)
    monkeypatch.delattr("fastsched.demo", raising=False)
    # None in sys.modules is Python's own sign for "cannot be imported".
    for name in [name for name in sys.modules if name.partition(".")[0] == extra]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, extra, None)
    assert cli.main(["demo"]) == 1
    message = f"Error: the demo needs {extra}, which is not installed; pip install 'fastsched[demo]'\n"
    assert capsys.readouterr().err == message
