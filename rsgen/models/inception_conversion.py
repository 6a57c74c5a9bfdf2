"""The public file of FID's Inception weights (.pth) -> a folder of safetensors.

The file is the one that the usual FID programs fetch (inception-2015-12-05); its classifier is not
needed and is left out.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from rsgen.errors import SetupError, UsageError
from rsgen.hints import check_path
from rsgen.images import sha256_file
from rsgen.models.inception import FEATURES, MODEL_TYPE, WEIGHTS, Inception
from rsgen.models.state_files import read_state
from rsgen.models.weight_files import share_weights

__all__ = ["ConvertedInception", "convert_inception"]

CLASSIFIER = ("fc.weight", "fc.bias")
COUNTER = ".num_batches_tracked"  # absent from files older than PyTorch 0.4.1; not used here


@dataclass(frozen=True)
class ConvertedInception:
    """What was made, and from what. `tensors` counts those that were kept."""

    folder: Path
    source: str
    sha256: str
    tensors: int

    def to_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "folder": str(self.folder),
            "source": self.source,
            "sha256": self.sha256,
            "tensors": self.tensors,
        }


def convert_inception(file: Path, out: Path) -> ConvertedInception:
    """Write a folder that `evaluate --features` reads. `out` appears only when it is whole.

    Raises:
        UsageError: a missing file, or `out` exists.
        SetupError: other weights, such as those of torchvision's or timm's Inception v3.
    """
    if not file.is_file():
        raise UsageError(f"--convert-inception {file}: no such file", hint=check_path(file))
    if out.exists():
        raise UsageError(f"--out {out}: it exists already", hint="name a new folder")
    state = read_state(file)
    with torch.device("meta"):
        expected = Inception().state_dict()
    lacking = sorted(k for k in expected if k not in state and not k.endswith(COUNTER))
    wrong = sorted(k for k in expected if k in state and state[k].shape != expected[k].shape)
    others = sorted(set(state) - set(expected) - set(CLASSIFIER))
    outputs = len(state["fc.bias"]) if "fc.bias" in state else 1008
    if lacking or wrong or others or outputs != 1008:
        said = (lacking and f"it lacks {lacking[0]}") or (wrong and f"{wrong[0]} has other sizes")
        said = said or (others and f"{others[0]} has no place in it") or f"{outputs} classes"
        raise SetupError(
            f"{file}: not the weights of FID's Inception ({said})",
            hint="give pt_inception-2015-12-05-6726825d.pth; ImageNet's Inception v3 of other "
            "libraries (1,000 classes) gives other figures, which are not FID",
        )
    kept = {
        key: torch.tensor(0) if key.endswith(COUNTER) else state[key].float().contiguous()
        for key in expected
    }
    made = ConvertedInception(out, file.name, sha256_file(file), len(kept))
    _write(out, kept, made)
    return made


def _write(out: Path, tensors: dict[str, torch.Tensor], made: ConvertedInception) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.rsgen-part-{os.getpid()}")
    config = {
        "model_type": MODEL_TYPE,
        "features": FEATURES,
        "source": made.source,
        "sha256": made.sha256,
    }
    try:
        part.mkdir()
        save_file(tensors, part / WEIGHTS)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        share_weights(part)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
