"""Put pretrained checkpoints into the package as the embedded model `tiny`.

    python benchmarks/embed_tiny.py AUTOENCODER_OUT BASE_OUT CONTROLNET_OUT

Weights are stored as fp16 safetensors; the settings, seeds, steps, hardware and loss curves of
the three trainings stand beside them in training/.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rsgen.request import RunInfo
from rsgen.store import read_manifest

TARGET = Path(__file__).parents[1] / "rsgen" / "models" / "weights" / "tiny"


def store_half(source: Path, target: Path) -> None:
    """Copy a pipeline folder; floating-point tensors become fp16, but for the text encoder's.

    transformers opens an fp16 file as fp16, diffusers as fp32: in one pipeline they would clash.
    """
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors" and path.parent.name != "text_encoder":
            tensors = {
                name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in load_file(path).items()
            }
            save_file(tensors, place, metadata={"format": "pt"})
        elif path.name != "README.md":
            shutil.copyfile(path, place)


def record(outs: list[Path], target: Path) -> None:
    """Settings, counts and loss curve of each training."""
    target.mkdir(parents=True, exist_ok=True)
    rows = []
    for out in outs:
        info = RunInfo.load(out)
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        plan = info.plan
        rows.append(
            {
                "task": info.config.train.task,
                "seed": info.seed,
                "batch_size": plan.batch_size if plan else None,
                "dtype": plan.dtype if plan else None,
                "settings": info.config.train.model_dump(mode="json") | {"base": None},
                "counts": read_manifest(out)["counts"],
                "rates": summary["rates"],
                "seconds": summary["seconds"],
                "versions": info.to_json()["versions"],
            }
        )
        shutil.copyfile(out / "loss.png", target / f"{info.config.train.task}-loss.png")
    hardware = f"{platform.machine()} CPU, one torch thread, {torch.__version__}"
    text = json.dumps({"hardware": hardware, "trainings": rows}, indent=1) + "\n"
    (target / "record.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outs", type=Path, nargs=3, help="train OUT: autoencoder, base, controlnet")
    outs: list[Path] = parser.parse_args().outs
    store_half(outs[-1] / "model", TARGET)
    card_path = TARGET / "rsgen.json"
    card = json.loads(card_path.read_text(encoding="utf-8"))
    card["base"] = "from scratch, on procedural scenes"
    card_path.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    record(outs, TARGET / "training")
    size = sum(p.stat().st_size for p in TARGET.rglob("*") if p.is_file())
    print(f"{TARGET}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
