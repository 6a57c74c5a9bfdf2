"""why: the sample that is meant, every score beside its bound, where it comes from, the picture."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsgen.errors import DataError, UsageError
from rsgen.images import read_image
from rsgen.records import Provenance
from rsgen.runs import Job
from rsgen.store import open_samples
from rsgen.why import explain, find_sample
from tests.build import instance, layout, sample, sample_run, tree

Here = Callable[..., Any]
RULES = (
    "filter.rules=[{scorer: integrity, min: 0.5}, {scorer: contrast, min: 400, tolerate: 0.25},"
    " {scorer: contrast, name: soft, min: 0}]"
)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scenes and what filter made of them: no contrast is over 400, so every one is dropped."""
    from rsgen.config import load_config, parse_pairs
    from rsgen.pipeline import run_command

    root = tmp_path_factory.mktemp("judged")
    config = load_config(settings=parse_pairs(["scenes.count=6", "scenes.size=64", RULES]))
    run_command(Job("scenes", config, root / "scenes"))
    run_command(Job("filter", config, root / "kept", inputs={"run": [root / "scenes"]}))
    return root


def first_with_objects(run: Path) -> str:
    return next(s.id for s in open_samples(run) if any(i.box for i in s.layout.instances))


def test_every_score_stands_beside_its_bound(judged: Path, cli_here: Here) -> None:
    name = first_with_objects(judged / "kept")
    rows = cli_here("why", judged / "kept", name, "--json").json
    assert (rows["schema"], rows["id"], rows["verdict"]) == (1, name, "drop")
    by_rule = {row["rule"]: row for row in rows["judged"]}
    assert list(by_rule) == ["integrity", "contrast", "soft"], "in the order of the rules"
    assert by_rule["contrast"]["bound"] == "min 400" and by_rule["contrast"]["ok"] is False
    assert by_rule["integrity"]["ok"] and by_rule["soft"]["ok"]
    assert rows["tolerated"] == {"contrast": 0.25}
    things = [row for row in rows["objects"] if row["judged"]]
    assert things and all(row["failed"] == ["contrast"] for row in things)
    assert all("contrast" in row["reasons"][0] for row in things)
    assert Path(rows["image"]).is_file() and rows["provenance"]["kind"] == "real"
    text = cli_here("why", judged / "kept", name).out
    assert "verdict  drop" in text and "(min 400)" in text and "FAILS" in text
    assert "25% of the objects may fail" in text and f"filter {judged / 'kept'}" in text


def test_what_is_tolerated_is_no_failure_of_the_image(judged: Path) -> None:
    """Catches FAILS beside a rule in a sample that is kept."""
    run, found = find_sample(judged / "kept", first_with_objects(judged / "kept"))
    rows = {row.rule: row for row in explain(run, replace(found, reasons=())).judged}
    assert rows["contrast"].ok and rows["contrast"].tolerated and not rows["soft"].tolerated


@pytest.mark.parametrize("folder", ["kept", ".", "kept/parts"])
def test_the_stage_that_knows_most_is_asked(folder: str, judged: Path) -> None:
    """Catches the scenes run being asked, which has no verdict."""
    run, found = find_sample(judged / folder, first_with_objects(judged / "kept"))
    assert run.info.command == "filter" and found.verdict == "drop"


NAMES = ("a/ship-1.png", "a/ship-21.png", "b/ship-1.png", "big.png#0,512", "big.png#512,512")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("a/ship-1.png", "a/ship-1.png"),
        ("ship-21.png", "a/ship-21.png"),
        ("ship-21", "a/ship-21.png"),
        ("21.png", "a/ship-21.png"),
        ("a_ship-21.jpg", "a/ship-21.png"),
        ("#512,512", "big.png#512,512"),
        ("000003.png", "big.png#0,512"),
        ("images/00000/000003.png", "big.png#0,512"),
    ],
)
def test_ways_to_name_a_sample(wanted: str, found: str, tmp_path: Path) -> None:
    sample_run(tmp_path / "out", [sample(name) for name in NAMES])
    assert find_sample(tmp_path / "out", wanted)[1].id == found


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("ship-1.png", "fits 2 samples.*a/ship-1.png, b/ship-1.png"),
        ("ship-2l.png", "did you mean ship-21.png"),
        ("zzzzzzzz", "give an id"),
        (".png", "fits"),
    ],
)
def test_what_is_not_one_sample_is_exit_2(
    wanted: str, said: str, tmp_path: Path, cli_here: Here
) -> None:
    samples = [replace(sample(name), image=f"x/{name.split('#')[0]}") for name in NAMES]
    sample_run(tmp_path / "out", samples, images=False)
    with pytest.raises(UsageError) as caught:
        find_sample(tmp_path / "out", wanted)
    assert re.search(said, str(caught.value))
    assert cli_here("why", tmp_path / "out", wanted).code == 2


@pytest.mark.parametrize("there", [True, False])
def test_no_samples_is_exit_3(there: bool, tmp_path: Path, cli_here: Here) -> None:
    if there:
        (tmp_path / "x").mkdir()
    assert cli_here("why", tmp_path / "x", "1").code == 3
    with pytest.raises(DataError, match="no run with samples" if there else "no such folder"):
        find_sample(tmp_path / "x", "1")


def with_inputs(out: Path, **inputs: Path) -> None:
    """Give a built run its inputs, as the commands record them."""
    path = out / "run.json"
    row = json.loads(path.read_text())
    row["inputs"] = [
        {"name": name, "path": str(p), "fingerprint": "f", "manifest_hash": "m"}
        for name, p in inputs.items()
    ]
    path.write_text(json.dumps(row))


def test_the_chain_goes_back_to_the_data(tmp_path: Path) -> None:
    """Masks are named with the real images that they were cut from; what is gone is said."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = layout([instance(origin="pool:abc"), instance("ship", origin="annotation")])
    provenance = Provenance("synthetic", seed=5, layout_template="apron", sources=("r.png",))
    sample_run(tmp_path / "masks")
    sample_run(tmp_path / "pool", command="build-mask-pool")
    table = pa.table({"id": ["abc", "def"], "sources": [["r.png", "q.png"], ["z.png"]]})
    pq.write_table(table, tmp_path / "pool" / "pool.parquet")
    sample_run(
        tmp_path / "images", [sample("1-000000", made, image="i.png", provenance=provenance)],
        command="generate",
    )  # fmt: skip
    with_inputs(tmp_path / "masks", dataset=tmp_path / "gone")
    with_inputs(tmp_path / "pool", run=tmp_path / "masks")
    with_inputs(tmp_path / "images", checkpoint=Path("tiny"), pool=tmp_path / "pool")
    found = explain(*find_sample(tmp_path / "images", "1-000000"))
    assert [o.sources for o in found.objects] == [("r.png", "q.png"), ()]
    assert found.provenance["layout_template"] == "apron" and found.provenance["seed"] == 5
    assert [line.strip().replace(str(tmp_path), "") for line in found.chain] == [
        "generate /images",
        "checkpoint: tiny",
        "pool: build-mask-pool /pool",
        "run: extract-masks /masks",
        "dataset: /gone (gone)",
    ]


def test_an_export_is_traced_to_what_it_read(tmp_path: Path) -> None:
    sample_run(tmp_path / "kept", command="filter")
    sample_run(tmp_path / "set", command="export")
    with_inputs(tmp_path / "set", run=tmp_path / "kept")
    run, _ = find_sample(tmp_path / "set", "scene-3")
    assert run.path == tmp_path / "kept"


def test_the_picture_is_written_where_asked_and_never_over_another(
    judged: Path, tmp_path: Path, cli_here: Here
) -> None:
    name = first_with_objects(judged / "kept")
    before = tree(judged)
    done = cli_here("why", judged / "kept", name, "--out", tmp_path / "new" / "why.png")
    assert done.code == 0 and str(tmp_path / "new" / "why.png") in done.out
    picture = read_image(tmp_path / "new" / "why.png")
    assert picture.shape[1] == 2 * 512 + 8 and picture.shape[0] > 512 + 30
    overlay = picture[:512, 520:].astype(int)
    red = (overlay[..., 0] > 200) & (overlay[..., 1] < 110) & (overlay[..., 2] < 110)
    assert red.sum() > 50, "objects that failed are red"
    assert tree(judged) == before
    again = cli_here("why", judged / "kept", name, "--out", tmp_path / "new" / "why.png")
    assert again.code == 2 and "exists" in again.err
    assert cli_here("why", judged / "kept", name, "--out", tmp_path / "why.txt").code == 2


def test_a_lost_image_is_said_and_the_rest_is_told(judged: Path, tmp_path: Path) -> None:
    shutil.copytree(judged / "kept", tmp_path / "kept")
    path = tmp_path / "kept" / "run.json"
    row = json.loads(path.read_text())
    row["image_roots"] = []
    path.write_text(json.dumps(row))
    found = explain(*find_sample(tmp_path / "kept", first_with_objects(judged / "kept")))
    assert found.image is None and "not found" in found.image_note and found.judged
