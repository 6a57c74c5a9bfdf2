# ruff: noqa: T201 - it talks on stdout
"""A maker of masks in a process of its own, as a user would write it, with its sicknesses.

`mask_worker.py MODE [FILE]`. Whatever is bright is an object: `class` shows all of it, `each`
one mask for each asked object, `found` one for each bright part with its box.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np


def runs_of(pixels):
    """COCO's run lengths, not compressed."""
    flat = np.concatenate([[0], pixels.T.ravel().astype(int), [0]])
    edges = np.flatnonzero(np.diff(flat))
    bounds = np.concatenate([[0], edges, [pixels.size]])
    runs = np.diff(bounds).tolist()
    return {"size": list(pixels.shape), "counts": runs}


def look(question, mode):
    pixels = cv2.imread(question["image"], cv2.IMREAD_GRAYSCALE)
    assert pixels.shape == (question["height"], question["width"])
    bright = pixels > 150
    rows = []
    if mode == "each":
        for k, thing in enumerate(question["objects"]):
            x0, y0, x1, y1 = (round(v) for v in thing["box"])
            own = np.zeros_like(bright)
            own[max(y0, 0) : y1, max(x0, 0) : x1] = bright[max(y0, 0) : y1, max(x0, 0) : x1]
            row = {"label": thing["label"], "index": k, "score": 0.9, "rle": runs_of(own)}
            rows.append(row)
    elif mode == "found":
        count, parts, stats, _ = cv2.connectedComponentsWithStats(bright.astype(np.uint8))
        for k in range(1, count):
            x, y, w, h = (int(v) for v in stats[k, :4])
            row = {"score": 0.9, "box": [x, y, x + w, y + h], "rle": runs_of(parts == k)}
            rows += [{**row, "label": label} for label in question["classes"]]
    else:
        rows = [
            {"label": label, "score": 0.9, "rle": runs_of(bright)} for label in question["classes"]
        ]
    return {"masks": rows}


def main():
    mode, file = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    print("weights loaded", file=sys.stderr)
    if mode == "stubborn":  # deaf to the end of its input, with a child of its own
        child = subprocess.Popen(["sleep", "300"])
        Path(file).write_text(f"{os.getpid()} {child.pid}")
    for line in sys.stdin:
        question = json.loads(line)
        seen = cv2.imread(question["image"], cv2.IMREAD_GRAYSCALE)
        if mode == "dies-once" and not Path(file).exists():
            Path(file).touch()
            os._exit(3)
        if mode == "dies" or (mode == "dies-in-the-dark" and seen.max() < 150):
            print("no memory left", file=sys.stderr)
            os._exit(3)
        if mode in {"slow", "stubborn"}:
            time.sleep(60)
        print(file if mode == "says" else json.dumps(look(question, mode)))
    if mode == "stubborn":
        time.sleep(300)


main()
