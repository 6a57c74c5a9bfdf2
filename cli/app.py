"""The Typer app: commands, signals, and the one place where an error becomes an exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from rsgen.errors import LockedError

from .commands import COMMANDS, CommandSpec
from .looking import LOOKING
from .options import Common, command_signature, config_values, with_signature
from .outcome import exit_code_of

if TYPE_CHECKING:
    from rsgen.job import Control
    from rsgen.reporting import RunSummary

    from .console import ConsoleReporter

__all__ = ["app"]

HELP = """Turn a small labelled remote-sensing set into a large, screened one.

Each command reads folders and writes one new folder (--out). A run that was stopped goes on
when the same line is given again; a finished one is left as it is.

\b
  rsgen run quickstart --work quickstart-run      the whole job on sample scenes

Your own data: a pipeline file made for it, and the whole job.

\b
  rsgen init DATASET > factory.yaml
  rsgen run factory.yaml --work work
  rsgen status work

Or step by step:

\b
  rsgen extract-masks DATASET --out masks
  rsgen build-mask-pool masks --out pool
  rsgen train masks --out model
  rsgen generate model --pool pool --count 500 --out images
  rsgen filter images --real masks --out kept
  rsgen export kept --format coco,dota --out set

\b
Exit codes: 0 done, 1 bug, 2 usage, 3 data, 4 environment, 5 too many failed items,
6 locked, 7 quality gate missed, 75 stopped (run the same line again).
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(value: bool) -> None:
    if value:
        from rsgen import __version__

        typer.echo(f"rsgen {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version"
    ),
) -> None:
    return


class OnceCommand(TyperCommand):
    """An option given twice is an error: the last one must not win in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a line; `--print-config` reads no input and needs none named."""
        if "--print-config" not in args or self.name == "run":
            return self._parsed(ctx, args)
        needed = [p for p in self.params if p.required]
        for parameter in needed:
            parameter.required = False
        try:
            return self._parsed(ctx, args)
        finally:
            for parameter in needed:
                parameter.required = True

    def _parsed(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter in order:
            free = getattr(parameter, "multiple", True) or getattr(parameter, "is_flag", True)
            if not free and order.count(parameter) > 1:
                ctx.fail(f"{parameter.opts[0]} is given twice")
        return list(super().parse_args(ctx, args))


def _register(spec: CommandSpec) -> None:
    def call(**given: Any) -> None:
        common = Common(**{name: given.pop(name) for name in Common.__dataclass_fields__})
        raise typer.Exit(_guarded(spec, common, given))

    signature = command_signature(spec.arguments, spec.options)
    app.command(
        spec.name, cls=OnceCommand, help=spec.help, short_help=spec.help, epilog=spec.example
    )(with_signature(call, signature, spec.name, spec.help))


def _guarded(spec: CommandSpec, common: Common, given: dict[str, Any]) -> int:
    """Run a command; every way it can end has one exit code."""
    from .console import ConsoleReporter

    reporter = ConsoleReporter(quiet=common.quiet, verbose=common.verbose)
    try:
        return _ended(spec, common, given, reporter)
    finally:
        reporter.end()


def _ended(
    spec: CommandSpec, common: Common, given: dict[str, Any], reporter: ConsoleReporter
) -> int:
    from .console import print_summary

    # torchrun starts one process a rank, and they share one stdout
    leads = spec.name not in {"train", "rl-tune"} or os.environ.get("RANK", "0") == "0"
    as_json = common.json and leads
    try:
        if common.log_file is not None:
            reporter.log_to(common.log_file)
        summary = _execute(spec, common, given, reporter)
    except Exception as error:  # noqa: BLE001 - outcome.py is where a bug becomes exit 1
        reporter.close()
        if isinstance(error, LockedError) and common.if_locked == "skip":
            reporter.note(f"{error.message}; skipped")
            if as_json:
                print_summary(_skipped(spec, common, given, error), as_json=True)
            return 0
        reporter.log(f"error: {error}")
        code = exit_code_of(error, as_json=as_json, keep=partial(_keep_traceback, common))
        reporter.log(f"rsgen {spec.name}: exit code {code}")
        return code
    reporter.close()
    if summary is None:
        return 0
    reporter.log(f"rsgen {spec.name}: {summary.status}, exit code {summary.exit_code}")
    if not leads:
        return summary.exit_code
    try:
        print_summary(summary, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: the work is done, nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return summary.exit_code


def _skipped(
    spec: CommandSpec, common: Common, given: dict[str, Any], error: LockedError
) -> RunSummary:
    from rsgen.reporting import RunSummary

    out = common.out or given.get("work")
    return RunSummary(spec.name, str(out), "skipped", notes=(error.message,))


def _keep_traceback(common: Common, text: str) -> str | None:
    """Where the traceback now is: the log file, else the events of an OUT that is a run."""
    path = common.log_file
    if path is None and common.out is not None and (common.out / "run.json").is_file():
        path = common.out / "events.jsonl"
        text = json.dumps({"kind": "traceback", "text": text}) + "\n"
    if path is None:
        return None
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(text)
    except OSError:
        return None
    return str(path)


def _execute(
    spec: CommandSpec, common: Common, given: dict[str, Any], reporter: ConsoleReporter
) -> RunSummary | None:
    from rsgen.config import parse_pairs
    from rsgen.job import Control

    options = config_values(spec.options, given)
    settings = parse_pairs(common.set)
    seconds = common.max_seconds()
    control = Control(None if seconds is None else time.monotonic() + seconds)
    with _signals(control):
        return spec.call(common, given, options, settings, reporter, control)


class _signals:
    """First SIGTERM, SIGINT or SIGUSR1: stop after the batch. A second one ends at once."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._old: dict[int, Any] = {}
        self._count = 0

    def __enter__(self) -> None:
        handler: Callable[[int, FrameType | None], None] = self._on_signal
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self._old[number] = signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            os._exit(130 if number == signal.SIGINT else 143)
        name = signal.Signals(number).name
        self._control.request_stop(name)
        os.write(2, f"\n{name}: stopping after the current batch; again to stop now\n".encode())


for _spec in COMMANDS:
    _register(_spec)
for _look in LOOKING:
    app.command(_look.name, help=_look.help, short_help=_look.help, epilog=_look.epilog)(_look.call)
