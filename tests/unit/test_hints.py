"""Near names and near paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsgen.config import read_yaml
from rsgen.errors import DataError, UsageError
from rsgen.hints import check_path, near_name
from rsgen.models.base import ModelRef, model_folder
from rsgen.pipeline import find_config
from rsgen.store import input_ref


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("mask", ["masks", "pool"], "masks"),
        ("DOTA-v1", ["dota-v1.0"], "dota-v1.0"),
        ("zebra", ["masks", "pool"], None),
        ("x", [], None),
    ],
)
def test_near_name(word: str, known: list[str], near: str | None) -> None:
    assert near_name(word, known) == near


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("mask", "did you mean masks?"),
        ("./mask", "did you mean masks?"),
        ("data/imges/train", "did you mean data/images/train?"),
        ("data/images/tran/a.png", "did you mean data/images/train/a.png?"),
        ("data/zzz", "holds images"),
        ("void/x", "is empty"),
    ],
)
def test_a_path_that_does_not_exist_gets_a_near_one(
    path: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a hint that names another folder's child, or turns a relative path absolute."""
    monkeypatch.chdir(tmp_path)
    for folder in ("masks", "data/images/train", "void"):
        (tmp_path / folder).mkdir(parents=True)
    assert hint in check_path(Path(path))


def test_whoever_reads_a_path_suggests_a_near_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    (tmp_path / "factory.yaml").write_text("seed: 1\n")
    with pytest.raises(DataError, match="did you mean masks"):
        input_ref("run", Path("maks"))
    with pytest.raises(UsageError, match=r"did you mean factory\.yaml"):
        read_yaml(Path("factroy.yaml"))
    with pytest.raises(UsageError, match=r"did you mean factory\.yaml"):
        find_config("factroy.yaml")
    with pytest.raises(UsageError, match="did you mean quickstart"):
        find_config("quikstart")
    with pytest.raises(UsageError, match="did you mean masks"):
        model_folder(ModelRef("folder", "maks"))
