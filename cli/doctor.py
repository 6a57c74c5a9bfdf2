"""`rsgen doctor`: look at the machine, fetch a model, convert one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .outcome import AsJson, ended

__all__ = ["doctor"]


def doctor(
    fetch: Annotated[
        str | None,
        typer.Option("--fetch", metavar="MODEL", help="Download hub:ORG/NAME[@REVISION], pinned"),
    ] = None,
    convert_clip: Annotated[
        Path | None,
        typer.Option(
            "--convert-clip",
            metavar="FILE.pt",
            help="Make a CLIP folder of open_clip's weights (RemoteCLIP's ViT); no code is run",
        ),
    ] = None,
    convert_inception: Annotated[
        Path | None,
        typer.Option(
            "--convert-inception",
            metavar="FILE.pth",
            help="Make a folder of FID's Inception weights, for evaluate --features",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="MODEL", help="Folder or hub with CLIP's vocabulary"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder that a conversion makes"),
    ] = None,
    quick_gelu: Annotated[
        bool,
        typer.Option(
            "--quick-gelu/--gelu",
            help="Activation the weights were trained with (OpenAI's and RemoteCLIP's: quick)",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check the machine, fetch a model, or convert one."""

    def call() -> int:
        from rsgen.doctor import diagnose

        from .console import print_report

        if convert_clip is not None:
            return _convert(convert_clip, tokenizer, out, quick_gelu, as_json=as_json)
        if convert_inception is not None:
            return _convert_inception(convert_inception, out, as_json=as_json)
        if fetch is not None:
            return _fetch(fetch, as_json=as_json)
        report = diagnose(Path.cwd())
        print_report(report, as_json=as_json)
        return report.exit_code

    ended(call, as_json=as_json)


def _fetch(model: str, *, as_json: bool) -> int:
    from rsgen.models.base import fetch_reference

    from .console import ConsoleReporter
    from .tables import fetched_text

    reporter = ConsoleReporter()
    try:
        found = fetch_reference(model, reporter)
    finally:
        reporter.end()
    sys.stdout.write(json.dumps(found.to_json()) + "\n" if as_json else fetched_text(found))
    return 0


def _convert(
    file: Path, tokenizer: str | None, out: Path | None, quick_gelu: bool, *, as_json: bool
) -> int:
    from rsgen.errors import UsageError
    from rsgen.models.clip_conversion import convert_clip

    from .tables import converted_text

    if tokenizer is None or out is None:
        raise UsageError(
            "--convert-clip needs CLIP's vocabulary, which the file lacks, and a place to write to",
            hint=f"rsgen doctor --convert-clip {file} "
            "--tokenizer hub:openai/clip-vit-base-patch32 --out FOLDER",
        )
    made = convert_clip(file, tokenizer, out, quick_gelu=quick_gelu)
    sys.stdout.write(json.dumps(made.to_json()) + "\n" if as_json else converted_text(made))
    return 0


def _convert_inception(file: Path, out: Path | None, *, as_json: bool) -> int:
    from rsgen.errors import UsageError
    from rsgen.models.inception_conversion import convert_inception

    from .tables import inception_text

    if out is None:
        raise UsageError(
            "--convert-inception needs a place to write to",
            hint=f"rsgen doctor --convert-inception {file} --out inception",
        )
    made = convert_inception(file, out)
    sys.stdout.write(json.dumps(made.to_json()) + "\n" if as_json else inception_text(made))
    return 0
