"""The command `fastsched`. A subcommand imports what it needs when it runs: `--help` stays quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

# The demo's extra libraries, by the name that an import of them fails with.
_DEMO_EXTRAS = {"torch", "sklearn", "matplotlib", "rich"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastsched", prog_name="fastsched", message="%(prog)s %(version)s")
def command() -> None:
    """Describe, tabulate and apply learning-rate schedules with a compiled engine."""


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
    try:
        from fastsched import demo as demonstration
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _DEMO_EXTRAS:
            raise
        raise click.ClickException(
            f"the demo needs {missing}, which is not installed; pip install 'fastsched[demo]'"
        ) from None
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
    """Run the command line and return its exit status: 0, 1 for an error, 2 for a wrong call.

    `argv` holds the arguments after the program's name; None takes those of the process.
    """
    try:
        command.main(args=None if argv is None else list(argv), prog_name="fastsched")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
