"""The command line: what it prints, what it returns, and that errors are one line."""

import sys
from importlib.metadata import version

import pytest
from support import output

from fastsched import cli


def test_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastsched {version('fastsched')}\n"


def test_help_names_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "No such command 'dmo'"),
        (["demo", "--stepz", "3"], "No such option"),
        (["demo", "--steps", "1"], "1 is not in the range"),
        (["demo", "--steps", "many"], "'many' is not a valid integer"),
        (["demo", "--seed", "-1"], "-1 is not in the range"),
        (["demo", "--out", "."], "is a directory"),
    ],
)
def test_a_wrong_call_returns_2_and_says_why(arguments, message, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


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


def test_importing_the_package_loads_no_command_line():
    code = "import sys, fastsched; print(any(name in sys.modules for name in ('click', 'fastsched.cli')))"
    assert output(code) == "False"
