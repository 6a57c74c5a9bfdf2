"""What is said of an exported set beside its labels: card, pipeline, sums, Croissant, places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rsgen import __version__
from rsgen.export.card import dataset_card
from rsgen.export.croissant import CROISSANT_FILE, croissant, write_sums
from rsgen.export.georeference import Georeferences
from rsgen.export.licences import gather_licences, licence_values
from rsgen.export.rebuild import PIPELINE_FILE, pipeline_text, why_not
from rsgen.export.selection import ancestry
from rsgen.images import replace_bytes
from rsgen.request import RunInfo
from rsgen.store import SampleRun

__all__ = ["write_metadata"]


def write_metadata(
    folder: Path,
    *,
    info: RunInfo,
    runs: Sequence[SampleRun],
    formats: Sequence[str],
    images: Mapping[str, Mapping[str, int]],
    objects: Mapping[str, Mapping[str, int]],
    codecs: str,
    notes: Sequence[str],
    places: Georeferences,
) -> None:
    """README.md, pipeline.yaml, georeference.json, sha256sums.txt and croissant.json.

    Everything else is in `folder` already. `images`: split -> kind -> count; `objects`: class
    -> split -> count.
    """
    chain: dict[str, RunInfo] = {}
    for run in runs:
        ancestry(run.path, chain)
    every = [*chain.values(), info]
    licences = gather_licences(every)
    obstacle = why_not(every)
    if obstacle is None:
        replace_bytes(folder / PIPELINE_FILE, pipeline_text(every).encode("utf-8"))
    card = dataset_card(
        chain=every,
        formats=formats,
        images=images,
        objects=objects,
        codecs=codecs,
        notes=notes,
        licences=licences,
        obstacle=obstacle,
        on_ground=places.write(folder),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    counts = {split: sum(kinds.values()) for split, kinds in images.items()}
    parts = ", ".join(f"{n} {split}" for split, n in counts.items())
    text = croissant(
        folder,
        write_sums(folder),
        name=f"rsgen-{info.fingerprint8}",
        description=f"{sum(counts.values())} remote-sensing images ({parts}) with objects of "
        f"{len(objects)} classes: {', '.join(objects)}. Real images and images painted over "
        "given labels are told apart in README.md.",
        version=__version__,
        licences=licence_values(licences),
        objects={split: sum(row.get(split, 0) for row in objects.values()) for split in images},
    )
    (folder / CROISSANT_FILE).write_text(text, encoding="utf-8")
