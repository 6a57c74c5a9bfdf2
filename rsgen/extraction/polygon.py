"""Backend `polygon`: masks that came with the label are kept as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rsgen.extraction.base import Pixels
from rsgen.records import ClassTable, Instance

__all__ = ["PolygonBackend"]


class PolygonBackend:
    """Keeps given masks (polygons and RLE become masks when they are read).

    A mask that an earlier run has made, or a person has corrected, keeps its origin.
    """

    name = "polygon"

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        """Score 1 for a given mask; an instance without one gets the reason `no mask`."""
        return [
            replace(i, reasons=(*i.reasons, "no mask"))
            if i.mask is None
            else replace(
                i,
                origin=self.name if i.origin == "annotation" else i.origin,
                scores={"mask": 1.0, **i.scores},
            )
            for i in known
        ]
