"""The command `fastsched`. A subcommand imports what it needs when it runs: `--help` stays quick.

Exit status: 0; 1 for an error or a finding (a warning of `lint`, curves that differ); 2 for a wrong call.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastsched._writing import Table
    from fastsched.schedule import Schedule

    _Type = click.ParamType[Any]  # generic since click 8.4
else:
    _Type = click.ParamType

# The demo's extra libraries, by the name that an import of them fails with.
_DEMO_EXTRAS = {"torch", "sklearn", "matplotlib", "rich"}

LARGEST_STEP = 2**53
MOST_GROUPS = 1 << 17
LARGEST_SCALES = 1 << 24  # bytes of a file of scales
ROWS = 21  # of a table on a terminal
WIDTH = 15  # of a column there
LONGEST_NAME, LONGEST_TITLE = 60, 200  # of a schedule, in characters

SEVERITIES = ("error", "warning", "info")  # as in fastsched.lint, which takes longer to import than --help

COMPLETION = """\b
Completion in bash (zsh and fish likewise), in ~/.bashrc:
  eval "$(_FASTSCHED_COMPLETE=bash_source fastsched)"

Exit status: 0; 1 for an error or a finding; 2 for a wrong call.
"""

SPEC_HELP = """SPEC is an expression such as 'warmup(500) > cosine(9500, end=0.1)', JSON, or a file with one of them
(- for the standard input); python -c 'help("fastsched.spec")' has the grammar."""


# ---- what the commands share ----


class _Spec(_Type):
    """A schedule as text."""

    name = "spec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from fastsched import spec

        if not isinstance(value, str):
            return value
        try:
            return spec.load(value)
        except spec.SpecError as error:
            self.fail(str(error).removeprefix("spec: "), param, ctx)
        except OSError as error:
            self.fail(f"cannot read {value}: {error.strerror or error}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The kinds and recipes that begin so, and files."""
        from fastsched import spec

        names = [CompletionItem(f"{name}(") for name in spec.names() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


class _NamedSpec(_Spec):
    """A schedule and what to call it: its text if that is short, else its repr."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        schedule = super().convert(value, param, ctx)
        short = len(value) <= LONGEST_NAME and value != "-" and not value.lstrip().startswith("{")
        return (value if short else _shortened(repr(schedule)), schedule)


def _shortened(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class _Groups(NamedTuple):
    """Names and scales of parameter groups."""

    names: list[str]
    scales: list[float]


class _Decay(_Type):
    """``decay=0.75,n=12``: layers, the last of which has scale 1."""

    name = "decay=D,n=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, _Groups):
            return value
        given = dict(part.strip().partition("=")[::2] for part in value.split(","))
        try:
            decay, count = float(given.pop("decay")), int(given.pop("n"))
        except (KeyError, ValueError):
            self.fail(f"{value!r} must be like decay=0.75,n=12", param, ctx)
        if given or not 0.0 < decay <= 1.0 or not 1 <= count <= MOST_GROUPS:
            self.fail(f"{value!r} must have decay in (0, 1], n in 1..{MOST_GROUPS}, and nothing else", param, ctx)
        return _Groups([f"layer{i}" for i in range(count)], [decay ** (count - 1 - i) for i in range(count)])


class _Scales(_Type):
    """A file of scales, one a line, each after its name and a comma or alone."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, _Groups):
            return value
        path = Path(value)
        try:
            if path.stat().st_size > LARGEST_SCALES:
                self.fail(f"{value} must have at most {LARGEST_SCALES} bytes, got {path.stat().st_size}", param, ctx)
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"cannot read {value}: {getattr(error, 'strerror', None) or error}", param, ctx)
        groups = _Groups([], [])
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, _, scale = line.rpartition(",")
            try:
                groups.scales.append(float(scale))
            except ValueError:
                self.fail(f"{value}:{number} must be a number, or a name, a comma and a number", param, ctx)
            groups.names.append(name.strip() or f"group{len(groups.names)}")
        if not 1 <= len(groups.names) <= MOST_GROUPS or not all(map(math.isfinite, groups.scales)):
            self.fail(f"{value} must have 1..{MOST_GROUPS} finite numbers, got {len(groups.names)}", param, ctx)
        if len({*groups.names, "step"}) <= len(groups.names):
            self.fail(f"{value}: names must differ, and none be 'step'", param, ctx)
        return groups


@contextmanager
def _refusals() -> Iterator[None]:
    """What the package or the system refuses, as one line and status 1."""
    try:
        yield
    except BrokenPipeError:  # click ends quietly
        raise
    except OSError as error:
        where = f"cannot write {error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from None
    except (ValueError, TypeError, ImportError) as error:
        raise click.ClickException(str(error)) from None


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, allow_nan=False))


def _length(schedule: Schedule) -> int | None:
    """The number of steps; None if it has no end."""
    return None if schedule.steps == math.inf else int(schedule.steps)


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table: by rich on a terminal if it is installed, else with aligned columns."""
    numbers = [all(cell[:1].isdigit() or cell[:1] == "-" for cell in column) for column in zip(*rows, strict=True)]
    if _is_terminal():
        try:
            from rich.console import Console
            from rich.table import Table as RichTable
            from rich.text import Text
        except ImportError:
            pass
        else:
            table = RichTable(title=Text(title) if title else None, title_justify="left")
            for name, number in zip(head, numbers, strict=True):
                table.add_column(Text(name), justify="right" if number else "left")
            for row in rows:
                table.add_row(*map(Text, row))
            Console().print(table)
            return
    if title:
        click.echo(title)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = zip(row, widths, numbers, strict=True)
        click.echo("  ".join(c.rjust(width) if number else c.ljust(width) for c, width, number in cells).rstrip())


@contextmanager
def _progress(label: str, length: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; it is advanced by calls."""
    if not shown or not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


def _picture_endings() -> set[str]:
    from matplotlib.figure import Figure

    return {f".{ending}" for ending in Figure().canvas.get_supported_filetypes()}


def _save(picture: Figure, out: Path) -> None:
    from fastsched._writing import replacing

    with replacing(out) as file:
        picture.savefig(file, format=out.suffix[1:].lower())


def _check_picture(out: Path) -> None:
    """Refuses a name that no picture can have, before any work."""
    try:
        endings = _picture_endings()
    except ImportError:
        message = "a picture needs matplotlib, which is not installed; pip install 'fastsched[plot]'"
        raise click.ClickException(message) from None
    if out.suffix.lower() not in endings:
        raise click.BadParameter(f"must end in one of {', '.join(sorted(endings))}, got {out.name!r}")


Command = TypeVar("Command", bound=Callable[..., Any])

_spec = click.argument("schedule", metavar="SPEC", type=_Spec())
_steps = click.option("--steps", type=click.IntRange(1, LARGEST_STEP), help="How many updates; default: the length.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _picture(default: str | None = None) -> Callable[[Command], Command]:
    return click.option(
        *("-o", "--output", "out"),
        type=click.Path(dir_okay=False, path_type=Path),
        default=default,
        show_default=True,
        help="Where to save the picture: png, svg, pdf, ...",
    )


def _group_options(function: Command) -> Command:
    for option in (
        click.option("--scales", type=_Scales(), help="A file with a number, or a name and a number, for each group."),
        click.option(
            "--groups",
            metavar="decay=D,n=N",
            type=_Decay(),
            help="N layers; each has D times the rate of the one above it.",
        ),
        click.option("--lr", type=float, default=1.0, show_default=True, help="The base learning rate."),
    ):
        function = option(function)
    return function


def _chosen(lr: float, groups: _Groups | None, scales: _Groups | None) -> _Groups:
    """The groups that the options ask for: by default one."""
    if groups and scales:
        raise click.UsageError("pass --groups or --scales, not both")
    if not math.isfinite(lr):
        raise click.BadParameter("--lr must be finite")
    chosen = groups or scales or _Groups(["lr"], [1.0])
    return _Groups(chosen.names, [lr * scale for scale in chosen.scales])


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=COMPLETION)
@click.version_option(package_name="fastsched", prog_name="fastsched", message="%(prog)s %(version)s")
def command() -> None:
    """Describe, tabulate and apply learning-rate schedules with a compiled engine."""


# ---- schedules ----


@command.command(epilog=SPEC_HELP)
@_spec
@_steps
@click.option("--start", type=click.IntRange(0, LARGEST_STEP), default=0, show_default=True, help="The first update.")
@_group_options
@click.option("--dtype", type=click.Choice(["float16", "float32", "float64"]), default="float64", show_default=True)
@click.option(
    *("-o", "--output", "out"),
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Where to write it; - or nothing: the standard output.",
)
@click.option(
    *("--format", "form"), type=click.Choice(["csv", "json", "npy", "npz", "parquet"]), help="Default: by the ending."
)
@_json
def table(
    schedule: Schedule,
    steps: int | None,
    start: int,
    lr: float,
    groups: _Groups | None,
    scales: _Groups | None,
    dtype: str,
    out: Path | None,
    form: str | None,
    as_json: bool,
) -> None:
    """Tabulate SPEC for one or many parameter groups: csv, json, npy, npz or parquet.

    A row is an update, a column a group; npz also holds the start, scales, names and the schedule as JSON. On a
    terminal, and without -o, a few rows are shown.
    """
    from fastsched._writing import Table, replacing, write

    chosen = _chosen(lr, groups, scales)
    count = _length(schedule) if steps is None else steps
    if count is None:
        raise click.UsageError("--steps must be given for a schedule without an end")
    if start + count > LARGEST_STEP:
        raise click.UsageError(f"--start and --steps must end by 2**53, got {start} + {count}")
    made = Table(schedule, count, start, chosen.scales, chosen.names, dtype)
    standard = out is None or str(out) == "-"
    if out is None and form is None and not as_json and _is_terminal():
        _show(made)
        return
    form = form or ("json" if as_json and standard else _format_of(out))
    _check_size(made, form, None if standard else out)
    with _refusals():
        if standard or out is None:
            stream = sys.stdout.buffer
            if _is_terminal() and form in ("npy", "npz", "parquet"):
                raise click.UsageError(f"{form} is not for a terminal; pass -o FILE")
            write(made, stream, form)
            stream.flush()
            return
        with replacing(out) as file:
            write(made, file, form)
    if as_json:
        report = {"file": str(out), "format": form, "steps": count, "start": start, "groups": len(chosen.scales)}
        _print_json({**report, "bytes": out.stat().st_size})


def _format_of(out: Path | None) -> str:
    from fastsched._writing import FORMATS

    ending = "csv" if out is None or str(out) == "-" else out.suffix[1:].lower()
    if ending not in FORMATS:
        raise click.UsageError(f"-o must end in one of .{', .'.join(FORMATS)}, got {ending!r}; or pass --format")
    return ending


def _check_size(made: Table, form: str, out: Path | None) -> None:
    """Refuses, before anything is written, what no disk or not this one can hold."""
    import shutil

    from fastsched._writing import LARGEST_TABLE, TEXT_BYTES

    columns = len(made.scale)
    size = made.steps * columns * TEXT_BYTES if form in ("csv", "json") else made.size
    what = f"{made.steps} steps of {columns} groups"
    if size > LARGEST_TABLE:
        message = f"a table must take at most 2**42 bytes, got {what}, which take {size}; pass fewer --steps"
        raise click.ClickException(message)
    if out is not None and out.parent.is_dir() and form != "parquet":  # which is compressed
        free = shutil.disk_usage(out.parent).free
        if size > free and (out.is_file() or not out.exists()):
            raise click.ClickException(f"{out.parent} must have {size} free bytes for {what}, got {free}")


def _show(made: Table) -> None:
    """A few rows and columns."""
    import shutil

    import numpy as np

    room = max(2, shutil.get_terminal_size().columns // WIDTH - 1)
    rows = np.unique(np.linspace(0, made.steps - 1, ROWS).round().astype(np.int64)) + made.start
    columns = np.unique(np.linspace(0, len(made.scale) - 1, room).round().astype(np.int64))
    curve: Any = made.schedule
    values = curve(rows)[:, None] * np.array(made.scale)[columns]
    head = ["step", *(made.names[column] for column in columns)]
    cells = [[f"{step:,}", *(f"{value:.6g}" for value in row)] for step, row in zip(rows.tolist(), values, strict=True)]
    _print_table(head, cells, _shortened(repr(made.schedule), LONGEST_TITLE))
    if len(rows) < made.steps or len(columns) < len(made.scale):
        click.echo(f"{len(rows)} of {made.steps:,} rows, {len(columns)} of {len(made.scale):,} columns; all: -o lr.csv")


@command.command(epilog=SPEC_HELP)
@click.argument("named", metavar="SPEC...", type=_NamedSpec(), nargs=-1, required=True)
@_steps
@_picture("lr.png")
@_json
def plot(named: tuple[tuple[str, Schedule], ...], steps: int | None, out: Path, as_json: bool) -> None:
    """Draw one SPEC or several into one picture."""
    _check_picture(out)
    lengths = [length for _, schedule in named if (length := _length(schedule)) is not None]
    count = steps or max(lengths, default=0)
    if not count:
        raise click.UsageError("--steps must be given for schedules without an end")
    with _refusals():
        axes: Any = None
        for name, schedule in named:
            axes = schedule.plot(count, ax=axes, label=name)
        if len(named) > 1:
            axes.set_title("")
            axes.legend(frameon=False, fontsize="small")
        _save(axes.figure, out)
    if as_json:
        _print_json({"file": str(out), "schedules": [repr(schedule) for _, schedule in named], "steps": count})
    else:
        click.echo(out)


@command.command(epilog=SPEC_HELP)
@_spec
@_steps
@_group_options
@click.option(
    "--fail-on",
    type=click.Choice([*SEVERITIES, "never"]),
    default="warning",
    show_default=True,
    help="The least grave finding that makes the exit status 1.",
)
@_json
@click.pass_context
def lint(
    ctx: click.Context,
    schedule: Schedule,
    steps: int | None,
    lr: float,
    groups: _Groups | None,
    scales: _Groups | None,
    fail_on: str,
    as_json: bool,
) -> None:
    """Say what is odd about SPEC: jumps, unused peaks, floors above a base, negative values, sums."""
    chosen = _chosen(lr, groups, scales)
    with _refusals():
        report = schedule.lint(chosen.scales, steps)
    if as_json:
        fields = ("code", "severity", "message", "steps")
        _print_json([{name: getattr(finding, name) for name in fields} for finding in report])
    else:
        for finding in report:
            colour = {"error": "red", "warning": "yellow"}.get(finding.severity)
            severity = click.style(f"{finding.severity}:", fg=colour, bold=colour is not None)
            click.echo(f"{severity} {finding.message} [{finding.code}]")
    if fail_on != "never" and any(SEVERITIES.index(f.severity) <= SEVERITIES.index(fail_on) for f in report):
        ctx.exit(1)


@command.command(epilog=SPEC_HELP)
@click.argument("a", metavar="SPEC", type=_Spec())
@click.argument("b", metavar="SPEC", type=_Spec())
@_steps
@click.option("--tolerance", type=float, default=1e-12, show_default=True, help="Allowed, of the largest value.")
@_picture()
@_json
@click.pass_context
def compare(
    ctx: click.Context,
    a: Schedule,
    b: Schedule,
    steps: int | None,
    tolerance: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Say where two SPECs first differ and by how much; the exit status is 1 if they do."""
    import fastsched

    if out:
        _check_picture(out)
    with _refusals():
        result = fastsched.compare(a, b, steps, tolerance=tolerance)
        if out:
            _save(result.plot(), out)
    if as_json:
        fields = ("steps", "tolerance", "different", "first", "largest", "at", "relative", "relative_at")
        _print_json({"equal": bool(result), **{name: getattr(result, name) for name in fields}})
    else:
        click.echo(result)
    if not result:
        ctx.exit(1)


@command.command()
@click.argument("name", required=False)
@_json
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes, or say when to use the one called NAME and what its source used with it."""
    import inspect

    from fastsched import recipes as known

    try:
        chosen = [known.about(name)] if name else [known.about(each) for each in known.names()]
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("recipes: "), param_hint="NAME") from None
    if as_json:
        plain = [{**vars(about), "settings": {**about.settings}, "layerwise": {**about.layerwise}} for about in chosen]
        _print_json(plain[0] if name else plain)
    elif name:
        function = getattr(known, name)
        click.echo(f"{name}{inspect.signature(function)}".replace("'", ""))
        click.echo(f"\n{inspect.getdoc(function)}\n")
        for field in ("task", "lr", "batch_size", "optimizer", "settings", "layerwise"):
            value = getattr(chosen[0], field)
            click.echo(f"{field}: {dict(value) if field in ('settings', 'layerwise') else value}")
    else:
        _print_table(
            ["recipe", "base lr", "optimizer", "for"],
            [[a.name, "-" if a.lr is None else f"{a.lr:.3g}", a.optimizer, a.task] for a in chosen],
        )


# ---- training ----


@command.command()
@click.argument("target", metavar="MODULE:FUNCTION")
@click.option("--low", type=float, help="The first learning rate.")
@click.option("--high", type=float, help="The last one.")
@click.option("--steps", type=click.IntRange(2, 1_000_000), help="Updates of the sweep.")
@_picture()
@click.option("--traceback", is_flag=True, help="Show where an error of your function comes from.")
@_json
def find(
    target: str,
    low: float | None,
    high: float | None,
    steps: int | None,
    out: Path | None,
    traceback: bool,
    as_json: bool,
) -> None:
    """Find a learning rate: the range test on what a function of yours returns.

    MODULE:FUNCTION, or script.py:FUNCTION, names a function without arguments that returns (model, loss_fn, batches),
    or a dict of arguments of fastsched.find_lr. Nothing of yours is changed by the test.
    """
    import fastsched

    if out:
        _check_picture(out)
    try:
        made = _function(target)()
    except click.ClickException:
        raise
    except Exception as error:
        if traceback:
            raise
        raise click.ClickException(f"{target}: {_where(error)}; --traceback shows more") from None
    options = {name: value for name, value in {"low": low, "high": high, "steps": steps}.items() if value is not None}
    if isinstance(made, dict):
        arguments = made
    elif isinstance(made, (tuple, list)) and len(made) == 3:
        arguments = dict(zip(("model", "loss_fn", "batches"), made, strict=True))
    else:
        message = f"{target} must return (model, loss_fn, batches) or a dict, got {type(made).__name__}"
        raise click.ClickException(message)
    try:
        result = fastsched.find_lr(**{"progress": not as_json, **arguments, **options})
        if out:
            drawn = result.plot()
            _save(getattr(drawn, "figure", drawn), out)
    except click.ClickException:
        raise
    except Exception as error:
        if traceback:
            raise
        message = str(error) if isinstance(error, (ValueError, TypeError, ImportError)) else _where(error)
        raise click.ClickException(message) from None
    if as_json:
        _print_json(_plain_result(result))
    else:
        click.echo(result)


def _plain_result(result: Any) -> Any:
    """A sweep, or one for each group, as JSON's own types; a loss that is not finite is null."""
    if hasattr(result, "items"):
        return {str(group): _plain_result(sweep) for group, sweep in result.items()}
    losses = [loss if math.isfinite(loss) else None for loss in map(float, result.losses)]
    return {"suggestion": result.suggestion, "lrs": list(map(float, result.lrs)), "losses": losses}


def _where(error: Exception) -> str:
    """An error of the user's own code, with the place that raised it."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {str(error)[:500]}"


def _function(target: str) -> Callable[[], Any]:
    """What ``module:function`` or ``script.py:function`` names."""
    import importlib
    import importlib.util

    where, _, name = target.rpartition(":")
    if not where or not name.isidentifier():
        raise click.BadParameter(f"must be module:function or script.py:function, got {target!r}", param_hint="TARGET")
    sys.path.insert(0, str(Path.cwd()))
    try:
        if where.endswith(".py"):
            if not Path(where).is_file():
                raise click.BadParameter(f"there must be such a file, got {where!r}", param_hint="TARGET")
            sys.path.insert(0, str(Path(where).resolve().parent))
            found = importlib.util.spec_from_file_location(Path(where).stem, where)
            assert found is not None
            assert found.loader is not None
            module = importlib.util.module_from_spec(found)
            sys.modules[found.name] = module  # what it pickles, and the workers of its loaders, find it by name
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name != where.partition(".")[0] and error.name != where:
            raise
        raise click.BadParameter(f"there must be such a module, got {where!r}", param_hint="TARGET") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise click.BadParameter(f"{where} must have a function {name!r}, got none", param_hint="TARGET")
    return function  # type: ignore[no-any-return]


@command.command()
@click.option("--groups", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Parameter groups.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=15, show_default=True, help="Of which it has medians.")
@_json
def bench(groups: int, rounds: int, as_json: bool) -> None:
    """Time the engine beside torch's schedulers and optimizer, on this machine, in a few seconds.

    Both come to the same values, which is checked first; they run in turn, and the times are medians, each with half of
    its interquartile range. What memory can do here is measured too.
    """
    with _needing("bench", {"torch"}, "torch"):
        from fastsched import _bench
    with _refusals():
        rows = list(_bench.run(groups, rounds))
        ceilings = _bench.ceilings(rounds)
    if as_json:
        fields = ("work", "torch", "torch_seconds", "fastsched_seconds", "torch_spread", "fastsched_spread", "ratio")
        plain = [{name: getattr(row, name) for name in fields} for row in rows]
        _print_json({"groups": groups, "rounds": rounds, "rows": plain, "bytes_per_second": ceilings})
        return
    _print_table(
        ["work", "torch", "seconds", "fastsched", "faster by"],
        [
            [
                *(row.work, row.torch),
                f"{row.torch_seconds:.3g} ± {row.torch_spread:.0%}",
                f"{row.fastsched_seconds:.3g} ± {row.fastsched_spread:.0%}",
                f"{row.ratio:.3g}",
            ]
            for row in rows
        ],
        f"{groups} groups, one thread, medians of {rounds} rounds, in turn; "
        f"memory: fill {ceilings['fill'] / 1e9:.3g} GB/s, copy {ceilings['copy'] / 1e9:.3g} GB/s",
    )


@contextmanager
def _needing(who: str, modules: set[str], extra: str) -> Iterator[None]:
    """Says which extra has a library that is missing."""
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in modules:
            raise
        message = f"the {who} needs {missing}, which is not installed; pip install 'fastsched[{extra}]'"
        raise click.ClickException(message) from None


@command.command()
@click.option("--lr", type=click.FloatRange(0.0, 10.0, min_open=True), default=0.01, show_default=True)
@click.option("--warmup", "rise", type=click.IntRange(1, 100_000), default=60, show_default=True, help="Updates of it.")
@click.option("--steps", type=click.IntRange(2, 100_000), default=200, show_default=True, help="Updates of each run.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@_picture("fastsched-warmup.png")
@_json
def warmup(lr: float, rise: int, steps: int, seed: int, out: Path, as_json: bool) -> None:
    """See why Adam is warmed up: train a small transformer on real digits with a warmup and without.

    Prints and draws the effective step lr / (sqrt(v) + eps) of its elements, all measured in this run. It takes some
    twenty seconds. Try --lr 0.001 too: a rate so small needs no warmup here.
    """
    with _needing("experiment", _DEMO_EXTRAS, "demo"):
        from fastsched import _warmup_experiment as experiment
    _check_picture(out)
    if not os.access(out.parent, os.W_OK):
        raise click.ClickException(f"cannot write {out}: no folder, or one that is not yours to write")
    with _progress("train twice", 2 * steps, shown=not as_json) as advance, _refusals():
        runs = experiment.run(lr, rise, steps, seed, advance)
        experiment.save(runs, out)
    if as_json:
        plain = [
            {"name": run.name, "loss": run.loss, "accuracy": run.accuracy, "effective_steps": run.steps.tolist()}
            for run in runs
        ]
        _print_json({"file": str(out), "shares": experiment.SHARES, "runs": plain})
        return
    head = ["update", "no warmup: middle", "1 in 100 above", "warmup: middle", "1 in 100 above"]
    _print_table(head, experiment.rows(runs), f"lr / (sqrt(v) + eps), lr {lr:g}")
    click.echo(f"{experiment.summary(runs)}\nPicture: {out}")


@command.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="fastsched-demo.png",
    show_default=True,
    help="Where to save the picture.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(2, 100_000),
    default=250,
    show_default=True,
    help="Optimizer updates of the fine-tuning.",
)
def demo(out: Path, seed: int, steps: int) -> None:
    """Fine-tune a small vision transformer twice, with torch's optimizer and with fastsched.

    Real handwritten digits, layer-wise learning rates, warmup and cosine. Prints test accuracies and times,
    all measured in this run, and saves one picture. Takes about a minute.
    """
    with _needing("demo", _DEMO_EXTRAS, "demo"):
        from fastsched import demo as demonstration
    try:
        demonstration.writable(out)
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror or error}") from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    try:
        demonstration.run(out, seed=seed, steps=steps)
    except ImportError as error:  # an installation without the native module: the message names the fix
        raise click.ClickException(str(error)) from None


@command.command(epilog=SPEC_HELP)
@click.argument("named", metavar="[SPEC]...", type=_NamedSpec(), nargs=-1)
@click.option("--lr", type=float, default=0.1, show_default=True, help="The base learning rate.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: a free one.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open it in the browser.")
def explore(named: tuple[tuple[str, Schedule], ...], lr: float, port: int, browser: bool) -> None:
    """Open a page on which schedules are turned and the trainings that they cause are seen.

    It is served to this machine's own browser only, works offline, and ends with Ctrl-C.
    """
    with _needing("page", _DEMO_EXTRAS | {"dash"}, "explore"):
        import dash  # noqa: F401  # the extra's own name, before those of what it brings
        import torch  # noqa: F401  # what the trainings need is asked for before the page is there

        from fastsched.explore import make, server  # noqa: F401
    with _refusals():
        page = make([schedule for _, schedule in named], lr=lr, port=port)
    click.echo(f"{page.url}  (Ctrl-C ends it)")
    if browser:
        click.launch(page.url)
    page.run()


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Tell what works here and what to do about the rest.

    Looks for torch, the CUDA driver, GPUs and NVRTC, and tries schedules, an update and, where there is a GPU, a
    kernel. What is missing need not be there; the exit status is 1 only if something that should work does not.
    """
    import json

    from fastsched import doctor as examination

    lines = examination.examine()
    if as_json:
        click.echo(json.dumps(examination.plain(lines), indent=2))
    else:
        click.echo(examination.report(lines))
    if not examination.works(lines):
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 for an error or a finding, 2 for a wrong call.

    `argv` holds the arguments after the program's name; None takes those of the process.
    """
    try:
        command.main(args=None if argv is None else list(argv), prog_name="fastsched")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
