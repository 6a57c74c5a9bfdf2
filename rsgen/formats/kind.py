"""What a format is: one entry of the registry, and what of a sample it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rsgen.errors import UsageError
from rsgen.formats.dataset import Dataset, ReadRequest
from rsgen.formats.source import Found, Source
from rsgen.formats.writing import FormatWriter, WriteOptions
from rsgen.records import ClassTable, Instance, Layout, Sample
from rsgen.registry import names

__all__ = ["SAMPLE_FIELDS", "Format", "FormatReader", "Holds", "things_only"]


class FormatReader(Protocol):
    def __call__(self, request: ReadRequest) -> Dataset:
        """Read a dataset folder or label file.

        Raises:
            DataError: nothing in it can be read at all.
        """
        ...


SAMPLE_FIELDS = frozenset({"attributes", "geo", "gsd_m", "prompt", "provenance", "scene", "scores"})


def things_only(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    """What a detection format holds at best: stuff, and what lies outside, is left out."""
    box = instance.bounds()
    if classes.is_stuff(instance.label) or box is None:
        return None
    return None if box.clip(layout.width, layout.height).area <= 0 else instance


@dataclass(frozen=True)
class Holds:
    """What of a sample comes back when a format's files are read.

    instance: (instance, its layout, classes) -> the instance as it comes back, None when it is
        left out. What is None or unset in it is not promised.
    sample: fields beyond image, size and split, of `SAMPLE_FIELDS`.
    attributes: names of image attributes that come back where the field as a whole does not.
    weights: whether the weight of an image comes back where its scores do not.
    """

    instance: Callable[[Instance, Layout, ClassTable], Instance | None] = things_only
    sample: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    weights: bool = False


@dataclass(frozen=True)
class Format:
    """One entry of the registry group `formats`.

    files: where labels and images lie in what is written, a line for help and the dataset card.
    read: None for a format that is written only.
    detect: what in a source says that it is of this format; None where it is only read by name.
    make_writer: None for a format that is read only.
    compare: (sample as it should come back, as it does, classes) -> what differs, or None; for
        formats that do not keep single instances. Default: instance by instance.
    check: (folder, images by split, objects) -> None; a second look at what was written, by
        other means than ours. Raises DataError. A format without a reader needs one.
    leaves_out: why a whole sample cannot be written ("without a position on the ground"), or
        None; an export lists such samples.
    objects: False for labels of whole images, which say nothing of the objects in them.
    bare_is_empty: an image without a label file is read as one without objects.
    """

    name: str
    files: str
    read: FormatReader | None
    make_writer: Callable[[WriteOptions], FormatWriter] | None = None
    detect: Callable[[Source], Found | None] | None = None
    holds: Holds = Holds()
    compare: Callable[[Sample, Sample, ClassTable], str | None] | None = None
    check: Callable[[Path, Mapping[str, int], int], None] | None = None
    leaves_out: Callable[[Sample], str | None] | None = None
    objects: bool = True
    bare_is_empty: bool = False

    def writer(self, options: WriteOptions | None = None) -> FormatWriter:
        """A new writer.

        Raises:
            UsageError: the format is read only.
        """
        if self.make_writer is None:
            known = ", ".join(names("formats", "written"))
            raise UsageError(f"{self.name} is read, not written", hint=f"formats to write: {known}")
        return self.make_writer(options or WriteOptions())
