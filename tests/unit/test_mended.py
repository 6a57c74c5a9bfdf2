"""A raw data set that is mended while its run is not committed: the same line goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsgen.config import load_config
from rsgen.errors import Stopped, TooManyFailures, UsageError
from rsgen.execution import run_stage
from rsgen.images import write_png
from rsgen.runs import Control, Job
from rsgen.store import is_committed, open_samples, part_path
from tests.build import data_of
from tests.unit.test_extraction import dataset, ground, ship_scene

Change = Callable[[Path], None]


def line(out: Path, data: Path, **keys: Any) -> Job:
    settings = [
        ("extract_masks.backend", "box"),
        ("execution.shard_size", 2),
        *((k.replace("__", "."), v) for k, v in keys.items()),
    ]
    return Job(
        "extract-masks", load_config(settings=settings, environ={}), out, {"dataset": [data]}
    )


def cut(path: Path) -> bytes:
    """End an image file too early; returns what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:900])
    return whole


def without_names(data: dict[str, str]) -> dict[str, str]:
    """All but what the fingerprint of the first start enters: provenance, so parts."""
    loose = ("parts/", "manifest.json", "inputs.json")
    return {name: value for name, value in data.items() if not name.startswith(loose)}


def records(out: Path) -> list[Any]:
    return [replace(s, provenance=replace(s.provenance, run=None)) for s in open_samples(out)]


def test_a_mended_image_is_taken_up_by_the_same_line(tmp_path: Path) -> None:
    """Catches exit 2 (another request) after the very fix that exit 5 asks for."""
    data, out = dataset(tmp_path / "data", 10), tmp_path / "out"
    bad = data / "images" / "5.png"
    whole = cut(bad)
    with pytest.raises(TooManyFailures, match=r"labels/5\.txt"):
        run_stage(line(out, data))
    first = part_path(out, 1).read_bytes()
    bad.write_bytes(whole)
    dry = run_stage(replace(line(out, data), dry_run=True))
    assert dry.counts["items"] == 10
    done = run_stage(line(out, data))
    assert (done.status, done.counts["samples"], done.counts["failures"]) == ("done", 10, 0)
    assert part_path(out, 1).read_bytes() == first, "what did not change is not made again"
    assert run_stage(line(out, data)).status == "no-op"
    run_stage(line(tmp_path / "fresh", data))
    assert records(out) == records(tmp_path / "fresh")
    assert without_names(data_of(out)) == without_names(data_of(tmp_path / "fresh"))


def remove(data: Path) -> None:
    (data / "images" / "9.png").unlink()
    (data / "labels" / "9.txt").unlink()


def relabel(data: Path) -> None:
    (data / "labels" / "3.txt").write_text("0 0.5 0.5 0.2 0.3\n")


def repaint(data: Path) -> None:
    write_png(data / "images" / "3.png", ship_scene(0.2)[0])


def add(data: Path) -> None:
    write_png(data / "images" / "00.png", ground())
    (data / "labels" / "00.txt").write_text("0 0.5 0.5 0.2 0.3\n")


@pytest.mark.parametrize("change", [remove, relabel, repaint, add], ids=lambda c: c.__name__)
def test_any_change_while_it_is_open_gives_what_a_fresh_run_gives(
    change: Change, tmp_path: Path
) -> None:
    """Catches a part kept with labels, pixels or a split that the data set no longer has."""
    data, out = dataset(tmp_path / "data", 10), tmp_path / "out"
    (data / "labels" / "8.txt").write_text("0 0.5 nan 0.2 0.2\n")
    steps = iter(range(100))
    control = Control(requested=lambda: next(steps) > 10)
    with pytest.raises(Stopped):
        run_stage(replace(line(out, data), control=control))
    assert part_path(out, 0).is_file() and not is_committed(out)
    change(data)
    run_stage(line(out, data))
    run_stage(line(tmp_path / "fresh", data))
    assert records(out) == records(tmp_path / "fresh")
    assert without_names(data_of(out)) == without_names(data_of(tmp_path / "fresh"))


def test_a_committed_run_is_what_it_is(tmp_path: Path) -> None:
    data, out = dataset(tmp_path / "data", 4), tmp_path / "out"
    run_stage(line(out, data))
    before = data_of(out)
    relabel(data)
    with pytest.raises(UsageError, match=r"input dataset[^;]*; changed: 3\.txt"):
        run_stage(line(out, data))
    assert data_of(out) == before


def test_another_data_set_is_another_request(tmp_path: Path) -> None:
    """Catches another folder taken for the mended one, and a slice that takes parts away."""
    data, out = dataset(tmp_path / "data", 4), tmp_path / "out"
    cut(data / "images" / "2.png")
    with pytest.raises(TooManyFailures):
        run_stage(line(out, data))
    with pytest.raises(UsageError, match="input dataset"):
        run_stage(line(out, dataset(tmp_path / "other", 4)))
    dataset(tmp_path / "data", 4)
    with pytest.raises(UsageError, match="input dataset"):
        run_stage(replace(line(out, data), slice_of=(0, 2)))
    with pytest.raises(UsageError, match="seed: 0 -> 3"):
        run_stage(line(out, data, seed=3))
    assert run_stage(line(out, data)).status == "done"
