# A detector of your own for rsgen: evaluate and filter, detector: 'command: ...' (see below)
# ruff: noqa: BLE001, B905, F401 - a program; it runs in your environment, Python 3.8 and up
"""A detector as a worker of rsgen, in an environment (and under a licence) of its own.

    rsgen templates workers/detector.py > detector.py
    rsgen evaluate kept --against real ... \\
      -s evaluate.detector='command: ENVIRONMENT/bin/python detector.py ultralytics best.pt'

The first word says whose detector it is, and the rest is what that one needs:

    ultralytics WEIGHTS              boxes, or quads where the model finds oriented ones
    mmrotate CONFIG CHECKPOINT       quads (mmrotate 0.3, which returns arrays by class)
    bright                           bright spots: needs no weights; to see the talk work

For any other: write a function like `ultralytics` below, which loads a model and returns a
function from an image's path to rows, and add it to DETECTORS.

It reads one JSON question a line, {"image": PATH, "classes": [NAMES]}, and writes one JSON
answer a line, {"detections": [{"label": NAME, "score": 0 to 1, "box": [x0, y0, x1, y1]}]}, or
with "quad": four [x, y] corners, and then perhaps "heading": radians from +x toward +y (y
points down). Pixels with half-open edges: a box around pixel (0, 0) alone is [0, 0, 1, 1].
All other output goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import traceback


def ultralytics(weights, device):
    """A model of the package ultralytics (which is AGPL-3.0: its terms are yours to keep)."""
    from ultralytics import YOLO

    model = YOLO(weights)

    def find(path):
        found = model.predict(path, device=device, verbose=False)[0]
        names = found.names
        rows = []
        if found.obb is not None:
            parts = found.obb.xyxyxyxy.tolist(), found.obb.cls.tolist(), found.obb.conf.tolist()
            for quad, number, score in zip(*parts):
                rows.append({"label": names[int(number)], "score": score, "quad": quad})
        elif found.boxes is not None:
            parts = found.boxes.xyxy.tolist(), found.boxes.cls.tolist(), found.boxes.conf.tolist()
            for box, number, score in zip(*parts):
                rows.append({"label": names[int(number)], "score": score, "box": box})
        return rows

    return find


def mmrotate(config, checkpoint, device):
    """A model of mmrotate 0.3: arrays [N, 6] (cx, cy, width, height, angle, score) by class."""
    import mmrotate as _  # its models are known from here on
    from mmdet.apis import inference_detector, init_detector

    model = init_detector(config, checkpoint, device=device or "cpu")

    def find(path):
        rows = []
        for label, found in zip(model.CLASSES, inference_detector(model, path)):
            for cx, cy, width, height, angle, score in found.tolist():
                quad = corners(cx, cy, width, height, angle)
                rows.append({"label": label, "score": score, "quad": quad})
        return rows

    return find


def bright(device):
    """Every pixel above 200 of 255 is of the first class: one box around all of them."""
    from PIL import Image

    def find(path):
        with Image.open(path) as image:
            box = image.convert("L").point(lambda value: 255 * (value > 200)).getbbox()
        return [] if box is None else [{"label": None, "score": 0.9, "box": list(box)}]

    return find


DETECTORS = {"ultralytics": ultralytics, "mmrotate": mmrotate, "bright": bright}


def corners(cx, cy, width, height, angle):
    """Four corners of a rectangle whose width lies along `angle`, radians from +x toward +y."""
    c, s = math.cos(angle), math.sin(angle)
    return [
        [cx + c * u - s * v, cy + s * u + c * v]
        for u, v in (
            (-width / 2, -height / 2),
            (width / 2, -height / 2),
            (width / 2, height / 2),
            (-width / 2, height / 2),
        )
    ]


def plain(name):
    """A class name without what two spellings of it may differ in."""
    return re.sub(r"[\s_-]+", "", name).lower()


def answer_to(question, find, renamed):
    """Rows of the classes that are asked for, under the names that they are asked by."""
    asked = {plain(name): name for name in question["classes"]}
    rows = []
    for row in find(question["image"]):
        label = question["classes"][0] if row["label"] is None else row["label"]
        name = asked.get(plain(renamed.get(label, label)))
        if name is not None:
            rows.append({**row, "label": name, "score": min(max(float(row["score"]), 0.0), 1.0)})
    return {"detections": rows}


def main():
    parser = argparse.ArgumentParser(description="A detector as a worker of rsgen")
    parser.add_argument("kind", choices=sorted(DETECTORS))
    parser.add_argument("files", nargs="*", help="weights, or config and checkpoint")
    parser.add_argument("--device", default=None, help="cpu, cuda:0 (default: as the package says)")
    parser.add_argument(
        "--rename", action="append", default=[], metavar="THEIRS=OURS",
        help="what rsgen calls a class of the model",
    )  # fmt: skip
    options = parser.parse_args()
    renamed = dict(pair.split("=", 1) for pair in options.rename)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed from here on is a remark
    sys.stdout = sys.stderr
    find = DETECTORS[options.kind](*options.files, device=options.device)
    for line in sys.stdin:
        try:
            answer = answer_to(json.loads(line), find, renamed)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
