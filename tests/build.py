"""Builders: small records and real run folders, with only what a test cares about spelled out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.config import Config, load_config
from rsgen.geometry import Quad, RotatedBox, bounds, heading_of, rotated_box_to_quad
from rsgen.images import sha256_file, write_png
from rsgen.mask import Mask
from rsgen.records import (
    ClassTable,
    Geo,
    Instance,
    Layout,
    ObjectClass,
    Provenance,
    Sample,
)
from rsgen.request import Plan, RunInfo, request_fingerprint, request_keys
from rsgen.runs import commit, run_json_bytes
from rsgen.store import part_counts, part_path, write_part

CLASSES = ClassTable(
    (
        ObjectClass("plane", ("airplane",)),
        ObjectClass("ship", ("boat",)),
        ObjectClass("storage-tank", symmetric=True),
        ObjectClass("water", kind="stuff"),
    )
)


def config(**keys: Any) -> Config:
    """A configuration with some dotted keys set: `config(**{"scenes.count": 3})`."""
    return load_config(settings=list(keys.items()), environ={})


def ellipse_mask(
    cx: float, cy: float, width: float, height: float, size: tuple[int, int] = (64, 64)
) -> Mask:
    """A filled ellipse on a canvas of size (width, height)."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    mask = Mask.from_array(((x - cx) / (width / 2)) ** 2 + ((y - cy) / (height / 2)) ** 2 <= 1)
    assert mask is not None
    return mask


def instance(
    label: str = "plane",
    cx: float = 20.0,
    cy: float = 24.0,
    length: float = 20.0,
    across: float = 12.0,
    heading_rad: float = 0.3,
    *,
    size: tuple[int, int] = (64, 64),
    **more: Any,
) -> Instance:
    """An oriented object with quad, box, mask and heading that agree with each other."""
    quad: Quad = rotated_box_to_quad(RotatedBox(cx, cy, length, across, heading_rad))
    mask = Mask.from_polygons([np.asarray(quad)], *size)
    symmetric = label == "storage-tank"
    values: dict[str, Any] = {
        "box": bounds(quad),
        "quad": quad,
        "mask": mask,
        "heading_rad": None if symmetric else heading_of(quad),
        "scores": {"mask": 0.9},
    }
    return Instance(label, **{**values, **more})


def water(size: tuple[int, int] = (64, 64)) -> Instance:
    """Stuff: the lower half of the canvas, a mask without a box."""
    pixels = np.zeros((size[1], size[0]), bool)
    pixels[size[1] // 2 :] = True
    return Instance("water", mask=Mask.from_array(pixels))


def layout(
    instances: Sequence[Instance] | None = None, size: tuple[int, int] = (64, 64), **more: Any
) -> Layout:
    """A canvas of (width, height): water, a plane, a ship and a tank, unless told otherwise."""
    if instances is None:
        instances = (
            water(size),
            instance("plane", size=size),
            instance("ship", 44, 40, 26, 9, -2.0, size=size),
            instance("storage-tank", 50, 14, 12, 12, 0.0, size=size),
        )
    return Layout(size[0], size[1], tuple(instances), **{"gsd_m": 0.5, "scene": "harbour", **more})


def picture(of: Layout, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Noise with each instance painted in its own grey: labels can be seen in the pixels."""
    pixels = np.random.default_rng(seed).integers(0, 80, (of.height, of.width, 3), dtype=np.uint8)
    for k, item in enumerate(of.instances):
        if item.mask is not None:
            item.mask.paint(pixels, np.uint8(120 + 30 * (k % 5)))
    return pixels


def sample(name: str = "a/0001.png", of: Layout | None = None, **more: Any) -> Sample:
    """A real sample with a layout; `more` overrides fields."""
    values: dict[str, Any] = {
        "image": name,
        "prompt": "a satellite image of plane, ship",
        "split": "train",
    }
    return Sample(name, of if of is not None else layout(), **{**values, **more})


def full_sample() -> Sample:
    """Every field set to something that a round trip could lose."""
    item = instance(
        caption="a “white” plane",
        attributes={"colour": "weiß", "note": ""},
        truncated=True,
        difficult=True,
        iscrowd=True,
        scores={"mask": 0.1 + 0.2, "fit": float("inf")},
        reasons=("too small", "cut, by the border"),
        origin="pool:abc#1",
    )
    return Sample(
        id="a b/ü.png#128,256",
        layout=layout((item, Instance("ship"), water()), gsd_m=0.1 + 0.2),
        image="a b/ü.png",
        sha256="0" * 64,
        prompt="line one\nline two",
        attributes={"event": "flood", "sensor": "WV3"},
        split="train",
        geo=Geo("EPSG:32633", (0.3, 0.0, 500000.1, 0.0, -0.3, 5400000.9)),
        provenance=Provenance(
            "synthetic", "f" * 32, "a b/ü.png", 2**63 - 1, "m" * 8, "scene", "apron", ("s1", "s2")
        ),
        scores={"clip": -1.5},
        verdict="drop",
        reasons=("near-duplicate of x",),
    )


@dataclass(frozen=True)
class BuiltRun:
    """A committed run folder on disk."""

    path: Path
    samples: tuple[Sample, ...]


def sample_run(
    out: Path,
    samples: Sequence[Sample] | None = None,
    *,
    command: str = "extract-masks",
    classes: ClassTable = CLASSES,
    shard_size: int = 4,
    images: bool = True,
    committed: bool = True,
    exit_code: int = 0,
    paint: Callable[[Layout, int], npt.NDArray[np.uint8]] | None = None,
    **keys: Any,
) -> BuiltRun:
    """Write a run folder through the real store; images are painted from the layouts."""
    if samples is None:
        samples = [sample(f"scene-{k}.png") for k in range(6)]
    settings = config(**keys)
    request = request_keys(command, settings, (), {})
    plan = Plan(0, (), 4, "fp32", "cpu", 1).extended(len(samples), shard_size)
    info = RunInfo(command, settings, out, request_fingerprint(request), (), classes, (), {}, plan)
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_bytes(run_json_bytes(info))
    written, parts = [], []
    for index, (start, stop) in enumerate(plan.shards):
        shard = [
            _with_pixels(s, out, index, k, paint or picture) if images else s
            for k, s in _slice(samples, start, stop)
        ]
        write_part(
            out, index, shard, [], {"instances": sum(len(s.layout.instances) for s in shard)}
        )
        path = part_path(out, index)
        parts.append({"name": path.name, "rows": part_counts(path)[0], "sha256": sha256_file(path)})
        written += shard
    if committed:
        counts = {"items": len(samples), "samples": len(samples), "failures": 0}
        commit(info, parts=parts, counts=counts, artifacts={}, exit_code=exit_code)
    return BuiltRun(out, tuple(written))


def _slice(samples: Sequence[Sample], start: int, stop: int) -> Iterator[tuple[int, Sample]]:
    yield from ((k, samples[k]) for k in range(start, stop))


def _with_pixels(
    item: Sample,
    out: Path,
    index: int,
    number: int,
    paint: Callable[[Layout, int], npt.NDArray[np.uint8]],
) -> Sample:
    if item.image is None:
        return item
    name = f"images/{index:05d}/{number:06d}.png"
    return replace(item, image=name, sha256=write_png(out / name, paint(item.layout, number)))


def tree(folder: Path, ignore: Callable[[str], bool] = lambda name: False) -> dict[str, str]:
    """Relative name -> sha256 of every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not ignore(p.relative_to(folder).as_posix())
    }


def data_of(out: Path) -> dict[str, str]:
    """What two runs of one request must share byte for byte: all but run.json, locks and logs."""
    loose = ("run.json", "run.lock", "summary.json")
    return tree(
        out, lambda n: n in loose or n.startswith(("events", "slice-")) or n.endswith(".lock")
    )
