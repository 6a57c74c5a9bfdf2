"""What every label format shares, in one import.

A format is one module with one `Format`, and one line in the registry. Its reader turns a
dataset folder into `Dataset`: samples, failures and counts that add up. Its writer is fed one
sample at a time and holds nothing that grows with pixels or labels. `Holds` says what of a
sample comes back when what was written is read: an export is checked against it, and what it
leaves out is told to the user.
"""

from __future__ import annotations

from rsgen.formats.dataset import Dataset, Problem, ReadRequest, Tally
from rsgen.formats.kind import SAMPLE_FIELDS, Format, FormatReader, Holds, things_only
from rsgen.formats.source import SPLITS, Found, Source, split_of_path
from rsgen.formats.writing import (
    FormatWriter,
    SafeNames,
    WriteOptions,
    WriteReport,
    write_dataset,
)

__all__ = [
    "SAMPLE_FIELDS",
    "SPLITS",
    "Dataset",
    "Format",
    "FormatReader",
    "FormatWriter",
    "Found",
    "Holds",
    "Problem",
    "ReadRequest",
    "SafeNames",
    "Source",
    "Tally",
    "WriteOptions",
    "WriteReport",
    "split_of_path",
    "things_only",
    "write_dataset",
]
