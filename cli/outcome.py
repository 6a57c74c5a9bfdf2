"""The one place where an error becomes an exit code and a few lines on stderr."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from rsgen.errors import RsgenError, from_os_error

__all__ = ["AsJson", "answered", "ended", "exit_code_of"]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]


def exit_code_of(error: Exception, *, as_json: bool, keep: Callable[[str], str | None]) -> int:
    """Say what went wrong and return the exit code.

    Args:
        keep: stores a bug's traceback and returns where, or None where there is no place.
    """
    from .console import print_error

    if isinstance(error, RsgenError):
        print_error(error, as_json=as_json)
        return error.exit_code
    known = from_os_error(error) if isinstance(error, OSError) else None
    if known is not None:
        print_error(known, as_json=as_json)
        return known.exit_code
    text = traceback.format_exc()
    place = keep(text)
    if place is None or os.environ.get("RSGEN_DEBUG"):
        sys.stderr.write(text)
    sys.stderr.write(
        f"error: {type(error).__name__}: {error}\n"
        f"  this is a bug in rsgen; the traceback is in {place or 'the lines above'}\n"
    )
    return 1


def answered(call: Callable[[], int], *, as_json: bool) -> int:
    """The exit code of a command that only looks; a listener may leave (`| head`)."""
    try:
        code = call()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes exit 1
        return exit_code_of(error, as_json=as_json, keep=lambda text: None)
    return code


def ended(call: Callable[[], int], *, as_json: bool) -> None:
    """Leave a command that only looks with its exit code."""
    raise typer.Exit(answered(call, as_json=as_json))
