"""Weight files can be read by whoever may read the files beside them.

Catches: safetensors' own mode 0600, with which a colleague's job opens model_index.json and then
fails on the weights.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rsgen.models.tiny import build_tiny
from rsgen.models.weight_files import share_weights


@pytest.mark.parametrize(
    ("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)], ids=["022", "027", "002"]
)
def test_weights_get_the_mode_of_a_new_file(tmp_path: Path, mask: int, mode: int) -> None:
    inner = tmp_path / "unet"
    inner.mkdir()
    save_file({"a": torch.zeros(1)}, inner / "model.safetensors")
    before = os.umask(mask)
    try:
        share_weights(tmp_path)
    finally:
        os.umask(before)
    assert (inner / "model.safetensors").stat().st_mode & 0o777 == mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["unet"]


def test_a_saved_model_has_one_mode(tmp_path: Path) -> None:
    build_tiny(0).save(tmp_path / "model")
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert len(modes) == 1
