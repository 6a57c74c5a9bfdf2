"""Are generated images copies of training images? The nearest one of each, two ways.

pixels: 1 - correlation of grey 32 x 32 thumbnails, in the best of eight poses (flips and
quarter turns): 0 is a copy, 1 unrelated, also under changes of brightness and contrast.
judge: ||a - b|| / (||a|| + ||b||) of the judge's features of images shrunk to 128 px, each scaled
by its spread over the training images, also in the best of eight poses; of at most 200 images of
a set, drawn by their ids.

What is near is told by the real images: the share of generated images that are nearer to a
training image than 95 % of the held real ones are (0.05 is expected of images that are as new
as those), and than 95 % of the training images are to images of other training scenes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.evaluation.base import CellResult, Evaluation, Images, figure
from rsgen.images import Pixels
from rsgen.models.latents import relative_distances
from rsgen.pictures import contact_sheet
from rsgen.records import Sample
from rsgen.scorers.novelty import POSES, correlations, thumbnail

__all__ = ["CELL", "CopiesCell", "Nearest", "posed"]

COPY = 0.05  # pixel distance under which it is the same picture: codecs and noise stay below
NEAR = 0.05  # share of real images that count as near
MOST = 200  # images of a set whose judge features are compared in all poses
SIDE = 128  # px they are shrunk to: eight poses of whole images would take minutes
PAIRS = 12

Distances = npt.NDArray[np.float64]


def posed(image: Pixels, pose: int) -> Pixels:
    """One of the eight poses of [H, W, ...]: 0 as it is, 1-3 its flips, 4-7 those transposed."""
    turned = image if pose < 4 else image.swapaxes(0, 1)
    rows, columns = 1 - 2 * (pose // 2 % 2), 1 - 2 * (pose % 2)
    return np.ascontiguousarray(turned[::rows, ::columns])


@dataclass(frozen=True, eq=False)
class Nearest:
    """distances: float64 [N] to the nearest training image. places: its position, int64 [N]."""

    samples: tuple[Sample, ...]
    distances: Distances
    places: npt.NDArray[np.int64]


class CopiesCell:
    """Nearest training images, beside those of held real images."""

    name = "copies"
    title = "copies: is a training image behind a generated one"

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        train = evaluation.train
        if len(train) < 2:
            raise DataError(
                f"{len(train)} images of the train split in --real: nothing that can be copied",
                hint="give --real the run that the model was trained on",
            )
        ways = {"pixels": _by_pixels(evaluation), "judge": _by_judge(evaluation)}
        figures: dict[str, Any] = {}
        tables: dict[str, dict[str, dict[str, Any]]] = {}
        found = {}
        for name, nearest in ways.items():
            made = nearest(evaluation.generated, False)
            real = nearest(evaluation.real, False)
            own = nearest(train, True)
            found[name] = made
            limits = {"held real": _limit(real), "training": _limit(own)}
            figures |= {
                f"nearer than 95 % of held real images, {name}": _share(made, limits["held real"]),
                f"nearer than 95 % of training images, {name}": _share(made, limits["training"]),
            }
            rows = {
                "generated to training": made,
                "held real to training": real,
                "training to other training scenes": own,
            }
            tables[f"distance to the nearest, {name}"] = {k: _row(v) for k, v in rows.items()}
        copies = int((found["pixels"].distances < COPY).sum())
        named = _pairs(found["pixels"], train)
        return CellResult(
            figures={"copies (correlation over 0.95)": copies, **figures},
            tables={**tables, "closest pairs, pixels": named},
            counts={
                "generated images": len(evaluation.generated),
                "held real images": len(evaluation.real),
                "training images": len(train),
                "generated images compared by judge features": len(found["judge"].samples),
            },
            notes=_notes(copies, evaluation),
            pictures=_pictures(found, evaluation, folder),
        )


def _chosen(images: Images, most: int | None = None) -> Images:
    """The samples in an order of their own ids, at most so many."""
    order = sorted(
        range(len(images)),
        key=lambda k: hashlib.sha256(images.samples[k].id.encode()).hexdigest(),
    )
    return images.some(order[:most])


def _by_pixels(evaluation: Evaluation) -> Callable[[Images, bool], Nearest]:
    train = _chosen(evaluation.train)
    references = _thumbnails(train, evaluation)

    def nearest(images: Images, others_only: bool) -> Nearest:
        chosen = _chosen(images)
        thumbs = _thumbnails(chosen, evaluation)
        rows = [1 - correlations(thumb, references, POSES) for thumb in thumbs]
        return _nearest(chosen, rows, train, others_only)

    return nearest


def _thumbnails(images: Images, evaluation: Evaluation) -> npt.NDArray[np.int8]:
    found = []
    for pixels in images.pixels():
        found.append(thumbnail(pixels))
        evaluation.check_stop()
    return np.stack(found)


def _by_judge(evaluation: Evaluation) -> Callable[[Images, bool], Nearest]:
    train = _chosen(evaluation.train)
    raw = _features(train, 1, evaluation)[:, 0]
    spread = np.maximum(raw.std(axis=0), 1e-6)
    references = (raw - raw.mean(axis=0)) / spread

    def nearest(images: Images, others_only: bool) -> Nearest:
        chosen = _chosen(images, MOST)
        posed_features = (_features(chosen, POSES, evaluation) - raw.mean(axis=0)) / spread
        rows = [relative_distances(poses, references).min(axis=0) for poses in posed_features]
        return _nearest(chosen, rows, train, others_only)

    return nearest


def _features(images: Images, poses: int, evaluation: Evaluation) -> Distances:
    """Judge features of each image in its first poses, float64 [N, poses, C]."""
    found = []
    for pixels in images.pixels():
        small = _shrunk(pixels)
        turned = [posed(small, k) for k in range(poses)]
        halves = [evaluation.judge.features(np.stack(p)) for p in (turned[:4], turned[4:]) if p]
        found.append(np.concatenate(halves).astype(np.float64))
        evaluation.check_stop()
    return np.stack(found)


def _shrunk(image: Pixels) -> Pixels:
    share = SIDE / max(image.shape[:2])
    if share >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA))


def _nearest(
    images: Images, rows: Sequence[npt.NDArray[Any]], train: Images, others_only: bool
) -> Nearest:
    """The least of each row [M]; with `others_only` among images of other scenes."""
    scenes = np.array([sample.parent for sample in train.samples])
    best, places = [], []
    for sample, row in zip(images.samples, rows, strict=True):
        distances = np.array(row, dtype=np.float64)
        if others_only:
            distances[scenes == sample.parent] = np.inf
        places.append(int(distances.argmin()))
        best.append(distances.min())
    values = np.where(np.isinf(best), np.nan, best)
    return Nearest(images.samples, values, np.array(places))


def _limit(real: Nearest) -> float:
    """The distance that 5 % of real images are nearer than."""
    known = real.distances[~np.isnan(real.distances)]
    return float(np.quantile(known, NEAR)) if len(known) else float("nan")


def _share(made: Nearest, limit: float) -> float | None:
    if np.isnan(limit):
        return None
    return figure(float((made.distances < limit).mean()))


def _row(found: Nearest) -> dict[str, float | int | None]:
    known = found.distances[~np.isnan(found.distances)]
    row: dict[str, float | int | None] = {"images": len(known)}
    for name, share in (("least", 0.0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95)):
        row[name] = figure(float(np.quantile(known, share))) if len(known) else None
    return row


def _pairs(found: Nearest, train: Images) -> dict[str, dict[str, Any]]:
    """The closest pairs by name."""
    names = _chosen(train).samples
    order = np.argsort(found.distances, kind="stable")[:PAIRS].tolist()
    return {
        found.samples[k].id: {
            "distance": figure(float(found.distances[k])),
            "training image": names[int(found.places[k])].id,
            "its layout": "yes" if _has_layout_of(found.samples[k], names[int(found.places[k])])
            else "no",
        }
        for k in order
    }  # fmt: skip


def _has_layout_of(made: Sample, real: Sample) -> bool:
    return made.parent == real.parent or real.id in made.provenance.sources


def _notes(copies: int, evaluation: Evaluation) -> list[str]:
    notes = []
    if copies:
        notes.append(
            f"{copies} of {len(evaluation.generated)} generated images are training images to the "
            "eye: see the closest pairs"
        )
    if len(evaluation.real) < 1 / NEAR:
        notes.append(
            f"{len(evaluation.real)} held real images: 5 % of them are less than one, so what is "
            "near is rough"
        )
    return notes


def _pictures(found: Mapping[str, Nearest], evaluation: Evaluation, folder: Path) -> dict[str, str]:
    """The closest pairs: the generated image, and the training image turned to its pose."""
    train = _chosen(evaluation.train)
    written = {}
    for way, nearest in found.items():
        tiles: list[Pixels] = []
        titles: list[str] = []
        for k in np.argsort(nearest.distances, kind="stable")[:PAIRS].tolist():
            made = evaluation.generated.read(nearest.samples[k])
            real = _turned_to(made, train.read(train.samples[int(nearest.places[k])]))
            tiles += [made, real]
            titles += [f"generated, {nearest.distances[k]:.3f}", "training"]
        contact_sheet(tiles, folder / f"{way}.png", titles=titles, columns=6, max_side=160)
        written[f"closest pairs, {way}: generated beside training"] = f"{way}.png"
    return written


def _turned_to(made: Pixels, real: Pixels) -> Pixels:
    """The pose of a training image that looks most like the generated one."""
    poses = [posed(real, k) for k in range(POSES)]
    thumbs = np.stack([thumbnail(pose) for pose in poses])
    return poses[int(correlations(thumbnail(made), thumbs, 1).argmax())]


CELL = CopiesCell()
