"""Commands that only look, and answer on stdout: no --out, no config, nothing of a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .doctor import doctor
from .outcome import AsJson, ended

__all__ = ["LOOKING", "LookSpec"]


@dataclass(frozen=True)
class LookSpec:
    """A command whose function's signature is its options."""

    name: str
    help: str
    call: Callable[..., None]
    examples: Sequence[str] = ()

    @property
    def epilog(self) -> str:
        return "\b\n" + "\n".join(["Examples:", *(f"  rsgen {e}" for e in self.examples)])


# ---------------------------------------------------------------- init


def init(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A folder of labelled images, or a label file")
    ],
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="PATH", help="Images, when they lie elsewhere"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="PATH", help="Labels, when they lie elsewhere"),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", metavar="TEXT", help="Input format (auto: by content)")
    ] = "auto",
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="TEXT", help="Class list file or template name"),
    ] = None,
    class_map: Annotated[
        list[str] | None,
        typer.Option("--class-map", metavar="NAME=NAME", help="Rename classes: theirs=ours"),
    ] = None,
    gsd: Annotated[
        float | None, typer.Option("--gsd", metavar="X", min=1e-6, help="Metres a pixel")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "-s",
            "--set",
            metavar="KEY=VALUE",
            help="How labels are read: -s extract_masks.label_name=ship",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at a data set."""

    def call() -> int:
        from rsgen.first_look import Request, advise, describe, examine, factory_yaml

        from .console import ConsoleReporter
        from .options import ConfigOption

        option = ConfigOption("--class-map", "extract_masks.class_map", shape="pairs")
        pairs = option.value(class_map or [])
        request = Request(
            dataset, images, labels, format, classes, pairs, gsd, reading=_reading(settings or [])
        )
        found = examine(request)
        advice = advise(found)
        reporter = ConsoleReporter()
        for level, line in describe(found, advice):
            reporter.note(line, level)
        text = factory_yaml(request, found, advice)
        if as_json:
            rows = {"schema": 1, "found": found.to_json(), "advice": advice.to_json()}
            text = json.dumps({**rows, "pipeline": text}) + "\n"
        elif sys.stdout.isatty():
            reporter.note("keep the lines below: give the command `> factory.yaml`\n")
        else:
            reporter.note("next: rsgen run factory.yaml --work work   (the file written here)")
        sys.stdout.write(text)
        return 0

    ended(call, as_json=as_json)


def _reading(settings: Sequence[str]) -> dict[str, Any]:
    """The values of `-s`, checked: keys that say how labels are read."""
    from rsgen.config import load_config, parse_pairs
    from rsgen.errors import UsageError
    from rsgen.formats import READ_KEYS

    pairs = parse_pairs(settings)
    known = [f"extract_masks.{key}" for key in READ_KEYS]
    other = [key for key, _ in pairs if key not in known]
    if other:
        raise UsageError(
            f"-s {other[0]}: init takes what says how labels are read: {', '.join(known)}",
            hint="change the rest in the file that init writes",
        )
    section = load_config(settings=pairs, environ={}).extract_masks
    return {key: getattr(section, key) for k, _ in pairs for key in [k.partition(".")[2]]}


# ---------------------------------------------------------------- status


def status(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A run's OUT, a --work folder, or a folder of runs"),
    ],
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="SECONDS", min=0.2, help="Again and again, till it ends"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look once, or again and again."""

    def call() -> int:
        from rsgen.status import look

        from .tables import status_text

        while True:
            found = look(folder)
            if as_json:
                sys.stdout.write(json.dumps(found.to_json()) + "\n")
            else:
                sys.stdout.write(status_text(found))
            sys.stdout.flush()
            if watch is None or not found.is_going:
                return 0
            time.sleep(watch)

    ended(call, as_json=as_json)


# ---------------------------------------------------------------- why


def why(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run with samples, or a --work folder")
    ],
    sample: Annotated[
        str, typer.Argument(metavar="ID", help="Sample id, its end, or its image's file name")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.png", help="Picture to write: image, labels"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain a sample."""

    def call() -> int:
        from rsgen.why import explain, find_sample, write_picture

        from .tables import why_text

        run, found = find_sample(folder, sample)
        explained = explain(run, found)
        if out is not None:
            write_picture(out, explained, found, run)
        picture = None if out is None else str(out)
        if as_json:
            sys.stdout.write(json.dumps({**explained.to_json(), "picture": picture}) + "\n")
        else:
            sys.stdout.write(why_text(explained))
            sys.stdout.write(f"\npicture  {picture}\n" if picture else "")
        return 0

    ended(call, as_json=as_json)


# ---------------------------------------------------------------- templates


def templates(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Print this one; without it: list all")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what ships with rsgen, or print one file."""

    def call() -> int:
        from rsgen.shipped import shipped_files, shipped_text, what_it_is

        if name is not None:
            text = shipped_text(name)
            row = {"schema": 1, "name": name, "text": text}
            sys.stdout.write(json.dumps(row) + "\n" if as_json else text)
            return 0
        rows = {key: what_it_is(path) for key, path in shipped_files().items()}
        if as_json:
            sys.stdout.write(json.dumps({"schema": 1, "templates": rows}) + "\n")
            return 0
        width = max(map(len, rows))
        for key, text in rows.items():
            sys.stdout.write(f"{key:<{width}}  {text}".rstrip() + "\n")
        return 0

    ended(call, as_json=as_json)


LOOKING: tuple[LookSpec, ...] = (
    LookSpec(
        "init",
        "Say what a folder of labelled images holds, and write a first pipeline file to stdout.",
        init,
        (
            "init DATASET > factory.yaml",
            "run factory.yaml --work work        (as it is: minutes on a CPU)",
            "init --images pictures labels.json > factory.yaml",
            "init DATASET --json                 (the findings, for scripts)",
        ),
    ),
    LookSpec(
        "status",
        "How far runs are: done, left, failed, time left; nothing is written or locked.",
        status,
        (
            "status work                 (the --work folder of rsgen run: every stage)",
            "status images               (one run)",
            "status work --watch 10      (till it ends)",
            "status . --json             (every run below this folder)",
        ),
    ),
    LookSpec(
        "why",
        "One sample: its verdict, every score and bound, the reasons, and where it comes from.",
        why,
        (
            "why work 1a2b3c4d-000017              (the last stage that knows it)",
            "why work 000017 --out why.png         (the picture, with the reasons)",
            "why kept 1a2b3c4d-000017.png --json",
        ),
    ),
    LookSpec(
        "templates",
        "List the pipelines, job scripts (cron, Slurm, DVC), workers, class tables; print one.",
        templates,
        (
            "templates",
            "templates quickstart > factory.yaml",
            "templates jobs/nightly.sh > nightly.sh      (cron)",
            "templates jobs/slurm-array.sh > array.sh    (Slurm)",
            "templates workers/remotesam.py > worker.py  (extract-masks --backend worker)",
        ),
    ),
    LookSpec(
        "doctor",
        "What is installed, which device and models, what to type; --fetch brings a model, "
        "--convert-clip and --convert-inception make one of other programs' weights.",
        doctor,
        (
            "doctor",
            "doctor --fetch hub:stable-diffusion-v1-5/stable-diffusion-v1-5",
            "doctor --fetch hub:ORG/NAME@v1.0      (prints the exact commit to write down)",
            "doctor --convert-clip RemoteCLIP-ViT-B-32.pt "
            "--tokenizer hub:openai/clip-vit-base-patch32 --out remoteclip",
            "doctor --convert-inception pt_inception-2015-12-05-6726825d.pth --out inception",
        ),
    ),
)
