"""COCO run-length codes as run lengths, checked.

pycocotools reads past the buffer when the runs do not fill the canvas, and decodes the whole
canvas for every small object; both matter for files of unknown origin. Writing uses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.mask import Mask

__all__ = ["decode_counts", "mask_from_runs"]

MOST_PIXELS = 100_000_000
Runs = npt.NDArray[np.int64]


def decode_counts(counts: bytes | str | list[Any], pixels: int) -> Runs:
    """Run lengths (background first), int64 [N], that add up to `pixels`.

    Source: the compressed code of the COCO API (rleFrString): five bits a character above 48,
    bit 5 = more follow, bit 4 of the last = sign; from the fourth run on a difference to the
    run two before.

    Raises:
        ValueError: the code is damaged, negative, or does not fill the canvas.
    """
    if isinstance(counts, list):
        if not all(isinstance(c, int) and not isinstance(c, bool) for c in counts):
            raise ValueError("a run is no whole number")
        runs = np.array(counts, dtype=np.int64)
    else:
        runs = _decompress(counts.encode("ascii") if isinstance(counts, str) else counts)
    if runs.size == 0 or (runs < 0).any() or int(runs.sum()) != pixels:
        raise ValueError(f"the runs add up to {int(runs.sum())}, not to {pixels} pixels")
    return runs


def _decompress(code: bytes) -> Runs:
    values = np.frombuffer(code, dtype=np.uint8).astype(np.int64) - 48
    if values.size == 0 or (values < 0).any() or (values > 63).any() or values[-1] & 0x20:
        raise ValueError("not a compressed run-length code")
    ends = np.flatnonzero((values & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if int(lengths.max()) > 10:
        raise ValueError("a run is too long")
    place = np.arange(values.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((values & 0x1F) << (5 * place), starts)
    negative = (values[ends] & 0x10) != 0
    runs = np.where(negative, numbers - (np.int64(1) << (5 * lengths)), numbers)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return np.asarray(runs, dtype=np.int64)


def mask_from_runs(runs: Runs, height: int) -> Mask | None:
    """The mask of column-major runs on a canvas of this height; None when empty.

    Raises:
        ValueError: its columns hold more pixels than are decoded at once.
    """
    stops = np.cumsum(runs)
    first, last = stops[0::2][: runs[1::2].size], stops[1::2]
    filled = last > first
    first, last = first[filled], last[filled]
    if first.size == 0:
        return None
    left, right = int(first[0]) // height, (int(last[-1]) - 1) // height + 1
    if (right - left) * height > MOST_PIXELS:
        raise ValueError(f"the mask spans {right - left} x {height} pixels of {MOST_PIXELS:,}")
    steps = np.zeros((right - left) * height + 1, dtype=np.int8)
    steps[first - left * height] += 1
    steps[last - left * height] -= 1
    columns = np.cumsum(steps[:-1], dtype=np.int8).reshape(right - left, height)
    return Mask.from_array(columns.T, left, 0)
