"""A detector of the user's own in a worker process: any framework, any licence, any Python.

A question is one JSON line, {"image": "/path/to.png", "classes": ["plane", "ship"]}. The
answer is one JSON line, {"detections": [{"label": "plane", "score": 0.9, "box": [x0, y0, x1,
y1]}, ...]}; in place of "box" a "quad" of four [x, y] corners, and with it optionally a
"heading" in radians from +x toward +y (y down). Pixels, half-open edges. {"error": "text"}
says that this image cannot be looked at.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsgen.detections import Detections
from rsgen.errors import DataError
from rsgen.geometry import Box, as_array, box_quad, clockwise, quad_from_tuple
from rsgen.images import Pixels, write_png
from rsgen.records import ClassTable
from rsgen.workers.process import Worker

__all__ = ["OutsideDetector"]


class OutsideDetector:
    """Keeps to `Detector`; looks for the thing classes of a table."""

    def __init__(self, command: str, classes: ClassTable, time_limit_s: float = 60.0) -> None:
        self.classes = classes
        self._names = [c.name for c in classes.classes if c.kind == "thing"]
        self._worker = Worker(command, time_limit_s)

    def detect(self, images: Pixels) -> list[Detections]:
        """Objects in each of uint8 [N, H, W, 3] RGB images, best first.

        Raises:
            DataError: the worker died twice over an image, or talks nonsense. SetupError: it
            cannot be started, or dies over every image.
        """
        found = []
        with tempfile.TemporaryDirectory(prefix="rsgen-worker-") as folder:
            for image in images:
                path = Path(folder) / "image.png"
                write_png(path, image)
                answer = self._worker.ask({"image": str(path), "classes": self._names})
                found.append(self._detections(answer))
        return found

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def _detections(self, answer: Any) -> Detections:
        if isinstance(answer, Mapping) and "error" in answer:
            raise DataError(f"worker {self._worker.name!r}: {answer['error']}")
        rows = answer.get("detections") if isinstance(answer, Mapping) else None
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            raise self._nonsense(f"no list of detections in {str(answer)[:120]!r}")
        parsed = [self._one(row, k) for k, row in enumerate(rows)]
        parsed.sort(key=lambda row: -row[2])
        return Detections(
            np.array([quad for quad, *_ in parsed], dtype=np.float64).reshape(-1, 4, 2),
            tuple(label for _, label, _, _ in parsed),
            np.array([score for _, _, score, _ in parsed], dtype=np.float64),
            np.array([heading for *_, heading in parsed], dtype=np.float64),
        )

    def _one(self, row: Any, number: int) -> tuple[Any, str, float, float]:
        """(corners [4, 2], class, score, heading or NaN)."""
        place = f"detection {number} ({str(row)[:120]})"
        if not isinstance(row, Mapping):
            raise self._nonsense(f"{place} is no object")
        entry = self.classes.find(str(row.get("label")))
        if entry is None or entry.name not in self._names:
            raise self._nonsense(f"{place} has a label that was not asked for")
        headed = row.get("heading") is not None
        score, heading = _number(row.get("score")), _number(row["heading"]) if headed else 0.0
        if not 0 <= score <= 1:
            raise self._nonsense(f"{place} has no score from 0 to 1")
        if math.isnan(heading):
            raise self._nonsense(f"{place} has a heading that is no number")
        corners = _corners(row)
        if corners is None:
            raise self._nonsense(
                f"{place} has no box [x0, y0, x1, y1] and no quad of 4 corners, in pixels"
            )
        return corners, entry.name, score, heading if headed and "quad" in row else math.nan

    def _nonsense(self, text: str) -> DataError:
        return DataError(
            f"worker {self._worker.name!r}: {text}",
            hint='answer with {"detections": [{"label": NAME, "score": 0.9, "box": [x0, y0, x1, '
            f"y1]}}]}}; names: {', '.join(self._names)}",
        )


def _number(value: Any) -> float:
    """A finite number, else NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def _corners(row: Mapping[str, Any]) -> Any:
    """float64 [4, 2] clockwise; None where there is no outline with an area."""
    given = row.get("quad") if "quad" in row else row.get("box")
    try:
        values = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if values.size == 0 or not np.isfinite(values).all():
        return None
    if "quad" not in row:
        if values.shape != (4,) or values[2] <= values[0] or values[3] <= values[1]:
            return None
        return as_array(box_quad(Box(*map(float, values))))
    if values.size != 8:
        return None
    return as_array(clockwise(quad_from_tuple(values.reshape(4, 2))))
