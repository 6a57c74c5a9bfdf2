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
        """Score 1 for a given mask; a thing without one gets the reason `no mask`."""
        return [i if labels.is_stuff(i.label) else self._kept(i) for i in known]

    def _kept(self, instance: Instance) -> Instance:
        if instance.mask is None:
            return replace(instance, reasons=(*instance.reasons, "no mask"))
        origin = self.name if instance.origin == "annotation" else instance.origin
        return replace(instance, origin=origin, scores={"mask": 1.0, **instance.scores})
