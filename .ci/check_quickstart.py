"""Hold a finished quickstart against its promise: check_quickstart.py WORK SUMMARY.json [KEPT].

The second run of the same line must be a no-op; the COCO file is read by pycocotools and the
DOTA one by rsgen's own reader; nothing is `unknown`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pycocotools.coco import COCO

from rsgen.formats import read_dataset
from rsgen.store import open_samples


def main() -> None:
    work, summary_path = Path(sys.argv[1]), Path(sys.argv[2])
    least = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    summary = json.loads(summary_path.read_text(encoding="utf-8"))
    again = [row for row in summary["tables"]["stages"].values() if not row.startswith("no-op")]
    expect(not again, f"the second run was no no-op: {again}")
    stages = json.loads((work / "run.json").read_text(encoding="utf-8"))["stages"]
    kept = [s for s in open_samples(work / stages["kept"]) if s.verdict == "keep"]
    unknown = [s.id for s in open_samples(work / stages["kept"]) if s.verdict == "unknown"]
    expect(not unknown, f"unknown verdicts: {unknown}")
    expect(len(kept) >= least, f"{len(kept)} kept images, wanted {least}")
    dataset = work / stages["set"] / "dataset"
    coco = COCO(str(dataset / "coco" / "annotations" / "instances_train.json"))
    expect(len(coco.getImgIds()) == len(kept), "COCO images differ from the kept samples")
    labels = {coco.cats[a["category_id"]]["name"] for a in coco.dataset["annotations"]}
    expect(len(labels) >= 4, f"classes in COCO: {sorted(labels)}")
    dota = list(read_dataset(dataset / "dota", format="dota").records)
    expect(len(dota) == len(kept), f"{len(dota)} DOTA images for {len(kept)} kept ones")
    print(f"quickstart: {len(kept)} kept, {len(coco.anns)} annotations, {len(labels)} classes")


def expect(true: bool, message: str) -> None:
    if not true:
        sys.exit(f"quickstart check failed: {message}")


if __name__ == "__main__":
    main()
