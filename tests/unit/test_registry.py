"""Names resolve lazily, to something that exists, or to an error that says what to type."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rsgen import registry
from rsgen.errors import SetupError, UsageError
from rsgen.registry import BUILT_IN, Use, names, resolve

ENTRIES = [(group, name) for group, rows in BUILT_IN.items() for name in rows]


@pytest.mark.parametrize(("group", "name"), ENTRIES, ids=[f"{g}:{n}" for g, n in ENTRIES])
def test_every_built_in_name_resolves(group: str, name: str) -> None:
    """Catches a registered name whose module or attribute is missing."""
    assert resolve(group, name) is not None
    assert name in names(group)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'coc' in formats; known: class-list, coco") as caught:
        resolve("formats", "coc")
    assert caught.value.hint == "did you mean 'coco'?"
    with pytest.raises(UsageError) as caught:
        resolve("formats", "zzzzzz")
    assert caught.value.hint is None


def test_formats_of_one_way_are_known_without_loading_them() -> None:
    """Catches a format that help offers for reading, or for writing, and that cannot be."""
    entries = {name: resolve("formats", name) for name in BUILT_IN["formats"]}
    assert names("formats", "read") == sorted(k for k, f in entries.items() if f.read)
    assert names("formats", "written") == sorted(k for k, f in entries.items() if f.make_writer)
    ways: tuple[tuple[Use, str], ...] = (
        ("read", "webdataset"),
        ("read", "class-list"),
        ("written", "hrsc2016"),
    )
    for use, other in ways:
        with pytest.raises(UsageError, match=r"known: (class-list, )?coco") as caught:
            resolve("formats", "zzz", use)
        assert other not in caught.value.message


def third_party(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    def found(group: str) -> list[EntryPoint]:
        assert group == "rsgen.scorers"
        return [EntryPoint(name, value, group) for name, value in points.items()]

    monkeypatch.setattr(registry, "entry_points", found)


def test_entry_points_add_names_and_never_replace_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sharp_scorer.py").write_text("class Sharp: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    third_party(monkeypatch, sharp="sharp_scorer:Sharp", contrast="sharp_scorer:Sharp")
    assert resolve("scorers", "sharp").__name__ == "Sharp"
    assert resolve("scorers", "contrast").__module__.startswith("rsgen.")
    assert names("scorers").count("contrast") == 1
    sys.modules.pop("sharp_scorer", None)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("no_such_package_x:Thing", SetupError, "no_such_package_x"),
        ("math:NoSuchThing", SetupError, "NoSuchThing"),
    ],
    ids=["package missing", "attribute missing"],
)
def test_a_broken_plug_in_is_an_environment_error(
    target: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a third party's mistake shown as a bug of ours."""
    third_party(monkeypatch, broken=target)
    with pytest.raises(error, match=message):
        resolve("scorers", "broken")
