"""The pipeline file that `init` writes: it runs as it is, and its comments teach."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from rsgen.errors import DataError
from rsgen.first_look.advice import FEW_SHAPES, HUB_MODEL, Advice
from rsgen.first_look.findings import ClassFound, Findings, Request
from rsgen.first_look.text import describe

__all__ = ["factory_yaml"]

COLUMN = 39  # where comments begin


def factory_yaml(request: Request, found: Findings, advice: Advice) -> str:
    """A YAML text for `rsgen run`; the same findings give the same text.

    Ground alone (semantic masks without things) has no shapes to place: its own layouts are
    painted anew then.

    Raises:
        DataError: nothing is labelled.
    """
    if not found.objects:
        raise DataError(
            f"{request.dataset}: no object is labelled, so there is nothing to learn or to place",
            hint="give the labels too (--labels PATH), or another folder",
        )
    parts = [
        _head(request, found, advice),
        _classes(request, found),
        "stages:\n",
        _masks(request, found, advice),
        *([_pool(found)] if found.things else []),
        _model(found, advice),
        *([_tuned()] if found.things else []),
        _images(found, advice),
        _kept(found),
        _set(found, advice),
    ]
    return "\n".join(parts)


def _line(text: str, comment: str = "") -> str:
    return f"{text:<{COLUMN}} # {comment}\n" if comment else f"{text}\n"


def _value(text: str) -> str:
    """A string as a YAML scalar in one line, quoted where it could mean something else."""
    plain = re.fullmatch(r"[\w./~-]+", text) is not None and yaml.safe_load(text) == text
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


def _notes(lines: Iterable[str], indent: str = "") -> str:
    return "".join(f"{indent}# {line}".rstrip() + "\n" for line in lines)


def _head(request: Request, found: Findings, advice: Advice) -> str:
    typed = _one_line(shlex.quote(str(request.dataset)))
    lines = [
        f"A first factory, made by `rsgen init {typed}`. Change what you like; what stands",
        "behind a # explains its line, or waits to be used.",
        "",
        "  rsgen run FILE.yaml --work work     everything; again: only what changed",
        "  rsgen status work                   how far it is, how long it will take",
        "  rsgen why work ID                   why an image was dropped",
        "",
        "Run it from the folder where `rsgen init` was typed, or make the paths absolute. Found:",
        "",
        *(f"  {_one_line(line)}" for _, line in describe(found, advice)),
    ]
    return (
        _notes(lines)
        + "\n"
        + _line("seed: 7", "all randomness follows from it: another number, another set")
        + "\nexecution:\n"
        + _line("  workers: 2", "processes for masks, images and filter; training uses one")
    )


def _one_line(text: str) -> str:
    """A comment may hold any name, but no line break and nothing that YAML refuses."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _classes(request: Request, found: Findings) -> str:
    if request.classes is not None:
        return _notes([f"The class table is {request.classes}, in stage masks below."])
    lines = [
        "The class table, in the order of the exported ids. Rename by `class_map` in stage masks;",
        "aliases are other spellings of a name; symmetric: the object has no front, so it may be",
        "turned round; kind: stuff is ground (water, road), one mask an image, never a box.",
    ]
    text = _notes(lines) + "classes:\n"
    return text + "".join(_class(entry) for entry in found.classes)


def _class(entry: ClassFound) -> str:
    keys = [f"name: {_value(entry.name)}"]
    if entry.kind != "thing":
        keys.append(f"kind: {entry.kind}")
    if entry.symmetric:
        keys.append("symmetric: true")
    known = {None: "new to tiny", entry.name: "known to tiny"}.get(
        entry.known_as, f"tiny's {entry.known_as}"
    )
    comment = f"{entry.objects} objects, {entry.train} to learn from; {known}"
    return _line(f"  - {{{', '.join(keys)}}}", comment)


def _mapping(pairs: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_value(k)}: {_value(v)}" for k, v in pairs.items()) + "}"


def _inputs(**named: Path | None) -> str:
    return _mapping({key: str(path) for key, path in named.items() if path is not None})


def _masks(request: Request, found: Findings, advice: Advice) -> str:
    shapes = {
        "masks": "the labels' own shapes are used",
        "oriented": "outlines are found inside the turned boxes",
        "boxes": "outlines are found inside the boxes: look at its overlay.html first",
    }
    inputs = _inputs(dataset=request.dataset, images=request.images, labels=request.labels)
    text = _line("  masks:", f"one mask an object; {shapes[found.label_kind]}")
    text += "    command: extract-masks\n" + f"    inputs: {inputs}\n" + "    config:\n"
    text += _line(f"      format: {_value(found.format)}", f"since {_one_line(found.why)}")
    if request.classes is not None:
        text += f"      classes: {_value(request.classes)}\n"
    if request.class_map:
        text += f"      class_map: {_mapping(request.class_map)}\n"
    else:
        text += _line("      # class_map: {theirs: ours}", "renames classes on reading")
    for key, value in request.reading.items():
        text += (
            f"      {key}: {json.dumps(value) if not isinstance(value, str) else _value(value)}\n"
        )
    text += _gsd(found)
    cut = "scenes over 1536 px are cut into tiles of 1024"
    text += _line("      tile: auto", f"{cut}: {'some here are' if advice.tiled else 'none here'}")
    if found.label_kind != "masks":
        text += _line(
            "      # backend: sam", "better outlines, with weights: see the README on SAM"
        )
    return text


def _gsd(found: Findings) -> str:
    if found.gsd_from == "given":
        return _line(f"      gsd_m: {found.gsd_m:g}", "metres a pixel, as given")
    if found.gsd_from == "files":
        return _line(f"      # gsd_m: {found.gsd_m:g}", f"as the files say: {found.gsd_why}")
    if found.gsd_m is not None:
        why = f"a guess: {_one_line(found.gsd_why)}. Uncomment it if it is true"
        return _line(f"      # gsd_m: {found.gsd_m:g}", why)
    return _line("      # gsd_m: 0.5", "metres a pixel, if you know it: spacing follows from it")


def _pool(found: Findings) -> str:
    text = _line("  pool:", "good shapes of the train split, in one pose: contact_sheet.png")
    text += "    command: build-mask-pool\n    inputs: {run: masks}\n"
    if found.label_kind != "masks":
        text += "    config:\n"
        comment = "true lets typical shapes in, where no outline was found"
        text += _line("      allow_fallback: false", comment)
    return text


def _model(found: Findings, advice: Advice) -> str:
    cells = "" if advice.cells is None else f"; the median object has {advice.cells:.1f} latents"
    hub_cells = "" if advice.hub_cells is None else f": {advice.hub_cells:.1f} latents an object"
    text = _line("  model:", "learns to paint layouts: validation/*.png, loss.png")
    text += "    command: train\n    inputs: {run: masks}\n    config:\n"
    text += _line("      base: tiny", "the demonstration model in the package; runs on a CPU")
    text += _line(f"      size: {advice.size}", f"canvas in pixels, cut at true scale{cells}")
    text += _line("      unet: full", "tiny knows drawn scenes only: for photos all of it learns,")
    text += _line("      lr: 2.0e-4", "  at this rate")
    text += _line(
        f"      max_steps: {advice.steps}", "more is better; validation/ shows when enough"
    )
    hub = [
        "For real work, on a GPU with 16 GB, put these in place of the five lines above (fetch it",
        f"once with `rsgen doctor --fetch {HUB_MODEL}`):",
        f"base: {HUB_MODEL}",
        f"size: {advice.hub_size}".ljust(COLUMN - 8) + f" # latents are 8 px{hub_cells}",
        "unet: auto".ljust(COLUMN - 8) + " # by the number of images: frozen, lora, decoder, full",
        "lr: 1.0e-4",
        "max_steps: 4000",
    ]
    return text + _notes(hub, "      ")


def _tuned() -> str:
    """Two stages that are switched off: `images` then takes what `model` made."""
    text = _line("  judges:", "detectors of your images: A rewards and filters, B measures")
    text += _line("    enabled: false", "true, and in tuned below, to learn from rewards too")
    text += "    command: train-judge\n    inputs: {run: masks}\n"
    text += _line("  tuned:", "the model learns from its own images what judge A finds in them")
    text += _line("    enabled: false", "off, it stands for `model`; on, look at its page.html")
    text += "    command: rl-tune\n"
    text += "    inputs: {checkpoint: model, pool: pool, real: masks, judge: judges}\n"
    text += "    config:\n"
    return text + _line("      epochs: 20", "exit 7 where judge B does not find it better")


def _images(found: Findings, advice: Advice) -> str:
    layouts = "new layouts from the pool" if found.things else "the layouts of your own images"
    text = _line("  images:", f"{layouts}, painted: contact_sheet.png")
    source = "tuned, pool: pool" if found.things else "model, layouts: masks"
    text += f"    command: generate\n    inputs: {{checkpoint: {source}}}\n    config:\n"
    if found.things:
        text += _line(f"      count: {advice.count}", "a larger one adds to what is there")
    else:
        text += _line("      per_layout: 2", "images of each layout of the train split")
    text += _line("      steps: 20", "denoising steps: fewer are quicker and rougher")
    text += _line("      # empty: 0.05", "share of images without objects")
    rare = min((c for c in found.classes if c.kind == "thing" and c.train >= FEW_SHAPES),
               key=lambda c: c.train, default=None)  # fmt: skip
    if rare is not None:
        wanted = f"      # per_class: {{{_value(rare.name)}: {2 * rare.train}}}"
        text += _line(wanted, "goes on till there are so many objects of a class")
    return text


def _kept(found: Findings) -> str:
    text = _line("  kept:", "scores, verdicts and reasons: kept.png, dropped.png")
    text += "    command: filter\n    inputs: {run: images, real: masks}\n"
    if found.things:
        comment = "exit 7 where less than half is kept"
        return text + _line("    # config: {fail_under: 0.5}", comment)
    text += "    config:\n" + _line("      rules:", "those that need no single objects")
    text += "        - {scorer: integrity, min: 0.5}\n"
    return text + "        - {scorer: novelty-hash, min: 0.1}\n"


def _set(found: Findings, advice: Advice) -> str:
    text = _line("  set:", "what a detector learns from: dataset/FORMAT, dataset/README.md")
    text += "    command: export\n"
    comment = "real: your own images too, so that there is a val"
    text += _line("    inputs: {run: kept, real: masks}", comment) + "    config:\n"
    carried = {"masks": "shapes", "oriented": "turned boxes", "boxes": "upright boxes"}
    what = "shapes and ground" if "masks" in advice.formats else carried[found.label_kind]
    shown = f"      format: [{', '.join(advice.formats)}]"
    return text + _line(shown, f"formats that carry {what}; others: the README")
