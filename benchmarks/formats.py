"""Read -> export of many instances, against a plain pycocotools loop that does the same.

Usage: python benchmarks/formats.py [COCO.json] [--instances 100000] [--out DIR]

Without a dataset a set of that size is made up (20 labels an image, polygons of 12 points,
1024 x 1024 pixels, labels only). Both loops parse the file, decode every mask and write a COCO
file with fresh areas and boxes; ours also checks every label and keeps samples.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PER_IMAGE = 20
SIZE = 1024


def make_set(path: Path, instances: int) -> None:
    """A COCO file of random blobs."""
    rng = np.random.default_rng(0)
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(-(-instances // PER_IMAGE)):
        images.append(
            {"id": number, "file_name": f"{number:06d}.png", "width": SIZE, "height": SIZE}
        )
        for _ in range(min(PER_IMAGE, instances - number * PER_IMAGE)):
            centre = rng.uniform(40, SIZE - 40, 2)
            radius = rng.uniform(8, 30) * rng.uniform(0.7, 1.0, 12)
            points = centre + np.stack([np.cos(turns), np.sin(turns)], 1) * radius[:, None]
            low, high = points.min(0), points.max(0)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": len(annotations) % 5,
                    "segmentation": [points.round(2).ravel().tolist()],
                    "bbox": [*low.round(2).tolist(), *(high - low).round(2).tolist()],
                    "area": 0,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": f"class{k}"} for k in range(5)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


def ours(source: Path, out: Path) -> int:
    from rsgen.formats import read_dataset, write_dataset
    from rsgen.formats.coco_write import CocoWriter

    dataset = read_dataset(source, require_images=False, format="coco")
    print(f"    read after {time.process_time():.1f} s of CPU")
    return write_dataset(CocoWriter(), dataset, dataset.classes, out).labels


def plain(source: Path, out: Path) -> int:
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(source))
    annotations = []
    for image_id in coco.getImgIds():
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
            code = coco.annToRLE(annotation)
            mask = coco_mask.decode(code)
            annotation["area"] = int(mask.sum())
            annotation["bbox"] = coco_mask.toBbox(code).tolist()
            annotation["segmentation"] = {**code, "counts": code["counts"].decode()}
            annotations.append(annotation)
    out.mkdir(parents=True)
    document = {
        "images": coco.loadImgs(coco.getImgIds()),
        "annotations": annotations,
        "categories": coco.loadCats(coco.getCatIds()),
    }
    (out / "plain.json").write_text(json.dumps(document))
    return len(annotations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["ours", "plain"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = given.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        source = given.dataset or out / "made_up.json"
        if given.dataset is None and not source.exists():
            make_set(source, given.instances)
        if given.only is None:
            print(f"{platform.processor() or platform.machine()}, Python {sys.version.split()[0]}")
            for name in ("plain", "ours"):  # apart, so that each peak of memory is its own
                line = [sys.executable, __file__, str(source), "--only", name, "--out", str(out)]
                subprocess.run(line, check=True)
            return
        start = time.perf_counter()
        count = (ours if given.only == "ours" else plain)(source, out / f"{given.only}-out")
        seconds, cpu = time.perf_counter() - start, time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{given.only:6s} {count} instances in {seconds:.1f} s ({cpu:.1f} s of CPU), "
            f"{count / cpu:.0f} a CPU second, peak {peak:.0f} MB"
        )


if __name__ == "__main__":
    main()
