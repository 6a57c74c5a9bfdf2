"""The picture of a sample: as it is, beside it with numbered labels, below both what was said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from rsgen.errors import UsageError
from rsgen.images import Pixels, encode_png, replace_bytes
from rsgen.pictures import draw_layout
from rsgen.records import Instance, Sample
from rsgen.store import SampleRun
from rsgen.why.sample import Explained

__all__ = ["side_by_side", "write_picture"]

PASSED, FAILED, INK = (70, 220, 90), (255, 70, 60), (235, 235, 235)
READABLE = 512  # smaller images are enlarged by a whole factor up to about this side
LINE, FONT, SCALE = 17, cv2.FONT_HERSHEY_SIMPLEX, 0.42


def write_picture(path: Path, found: Explained, sample: Sample, run: SampleRun) -> Path:
    """Write the picture as a PNG.

    Raises:
        UsageError: the file exists, or is no PNG by name.
        DataError: the image cannot be read.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path}: it is a PNG", hint=f"--out {path.with_suffix('.png')}")
    if path.exists():
        raise UsageError(f"--out {path} exists", hint="give a name that is free")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, encode_png(side_by_side(run.read_image(sample), sample, found)))
    return path


def side_by_side(image: Pixels, sample: Sample, found: Explained) -> Pixels:
    """uint8 [H, W, 3]: image, overlay (green passed, red failed), and lines of text."""
    scale = max(1, READABLE // max(image.shape[:2]))
    failed = [bool(entry.failed) for entry in found.objects]
    numbers = {id(i): k for k, i in enumerate(sample.layout.instances)}

    def color(instance: Instance) -> tuple[int, int, int]:
        return FAILED if failed[numbers[id(instance)]] else PASSED

    def name(instance: Instance) -> str:
        return str(numbers[id(instance)] + 1)

    drawn = draw_layout(image, sample.layout, scale=scale, color_of=color, name_of=name)
    plain = np.kron(image, np.ones((scale, scale, 1), np.uint8))
    gap = np.full((drawn.shape[0], 8, 3), 24, np.uint8)
    top = np.concatenate([plain, gap, drawn], axis=1)
    return np.ascontiguousarray(np.concatenate([top, _text(found, top.shape[1])]))


def _text(found: Explained, width: int) -> Pixels:
    head = f"{found.id}   {found.verdict or 'not judged'}"
    rows = [(head, INK), *((reason, FAILED) for reason in found.reasons)]
    for entry in found.objects:
        said = "; ".join(entry.reasons) or "passed"
        rows.append((f"{entry.number} {entry.label}: {said}", FAILED if entry.failed else PASSED))
    letters = max(20, int(width / 7.6))
    lines = [
        (text[start : start + letters], color)
        for text, color in rows
        for start in range(0, max(len(text), 1), letters)
    ]
    canvas = np.full((LINE * len(lines) + 10, width, 3), 24, np.uint8)
    for k, (text, color) in enumerate(lines):
        plain = text.encode("ascii", "replace").decode()
        place = (6, LINE * (k + 1))
        cv2.putText(canvas, plain, place, FONT, SCALE, color, 1, cv2.LINE_AA)
    return canvas
