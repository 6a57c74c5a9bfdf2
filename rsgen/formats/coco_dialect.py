"""A dialect of COCO: `annotation`, `category`, `filename`, and rotated boxes in `bbox`.

HIT-UAV writes it: five numbers in `bbox` are cx, cy, w, h and an angle in radians, from +x toward
+y (clockwise on screen), in [0, pi), so without a front. In COCO's own keys five numbers stay an
error: there some tools mean degrees, the other way round.
"""

from __future__ import annotations

from typing import Any

__all__ = ["KEYS", "in_own_words"]

KEYS = {"annotations": "annotation", "categories": "category"}


def in_own_words(document: dict[str, Any]) -> dict[str, Any]:
    """The document in COCO's keys, when it has the dialect's lists; else as it is."""
    if not all(isinstance(document.get(key), list) for key in KEYS.values()):
        return document
    rest = {key: value for key, value in document.items() if key not in KEYS.values()}
    images = document.get("images")
    if isinstance(images, list):
        rest["images"] = [_renamed(record) for record in images]
    labels = [_oriented(record) for record in document["annotation"]]
    return {**rest, "annotations": labels, "categories": document["category"]}


def _renamed(record: Any) -> Any:
    if not isinstance(record, dict) or "filename" not in record:
        return record
    return {"file_name": record["filename"], **record}


def _oriented(record: Any) -> Any:
    box = record.get("bbox") if isinstance(record, dict) else None
    if not isinstance(box, list) or len(box) != 5:
        return record
    rest = {key: value for key, value in record.items() if key != "bbox"}
    return {"obb": box, **rest}
