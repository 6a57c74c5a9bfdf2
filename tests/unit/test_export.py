"""The export command: what goes where, what is refused, and what a kill or a fault leaves."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsgen.config import load_config, parse_pairs
from rsgen.errors import DataError, Stopped, UsageError
from rsgen.export import export
from rsgen.export.card import command_line
from rsgen.export.codec import place_image, survey
from rsgen.export.selection import parse_ratio, parse_split
from rsgen.export.verify import check_format
from rsgen.formats import read_dataset
from rsgen.images import png_text, sha256_file, write_png
from rsgen.records import ClassTable, ObjectClass, Provenance, Sample
from rsgen.registry import resolve
from rsgen.reporting import NullReporter, RunSummary
from rsgen.request import InputRef, request_fingerprint, request_keys
from rsgen.runs import Control, Job, run_json_bytes, start_program
from rsgen.store import RunInfo, input_ref, open_samples
from tests.build import CLASSES, config, data_of, instance, layout, picture, sample, sample_run

FORMATS = [
    "coco",
    "dota",
    "dota-annfiles",
    "yolo",
    "yolo-obb",
    "yolo-seg",
    "jsonl",
    "voc",
    "dior-r",
    "masks",
    "earthsynth-180k",
    "imagefolder",
    "webdataset",
    "class-list",
]
# Stuff (water) is for these alone; imagefolder keeps a class an image.
OBJECTS_AND_STUFF = {"jsonl": 4, "masks": 4, "earthsynth-180k": 4, "imagefolder": 0}


def build(out: Path, samples: Sequence[Sample], suffix: str = ".png", **more: Any) -> Path:
    """A run whose images lie in it; `suffix` .jpg writes JPEG of rising quality."""
    written = []
    for k, item in enumerate(samples):
        name = f"images/{k:06d}{suffix}"
        path = out / name
        if suffix == ".png":
            synthetic = item.provenance.kind == "synthetic"
            write_png(path, picture(item.layout, k), {"rsgen": "made"} if synthetic else None)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(picture(item.layout, k))
            image.save(path, quality=60 + 5 * k, subsampling=0)
        written.append(replace(item, image=name, sha256=sha256_file(path)))
    return sample_run(out, written, images=False, **more).path


def real(count: int, split: str | None = "train", parent: int = 1, **more: Any) -> list[Sample]:
    """Real samples, `parent` tiles of each scene."""
    return [
        sample(f"scene-{k // parent}.png#{k % parent},0", split=split, **more) for k in range(count)
    ]


def synthetic(count: int, **more: Any) -> list[Sample]:
    made = Provenance("synthetic", run="f" * 32, seed=1)
    values: dict[str, Any] = {"provenance": made, "verdict": "keep", **more}
    return [sample(f"ffffffff-{k:06d}", **values) for k in range(count)]


def run_export(
    out: Path, runs: Sequence[Path], with_real: Path | None = None, **keys: Any
) -> RunSummary:
    inputs = {"run": list(runs), "real": [with_real] if with_real else []}
    return export(Job("export", config(**keys), out, inputs))


def link_inputs(run: Path, *inputs: tuple[str, Path]) -> None:
    """Say in a run's run.json what it was made from."""
    info = RunInfo.load(run)
    refs = tuple(input_ref(name, path) for name, path in inputs)
    (run / "run.json").write_bytes(run_json_bytes(replace(info, inputs=refs)))


def trained(out: Path, run: Path) -> Path:
    """A committed train run that has learned from `run`."""
    job = Job("train", config(), out, {"run": [run]})
    with start_program(job, inputs=[input_ref("run", run)], classes=CLASSES) as program:
        program.commit(counts={}, artifacts={})
    return out


# ---------------------------------------------------------------- what is written


def test_every_format_in_one_call_reads_back(tmp_path: Path) -> None:
    run = build(tmp_path / "run", real(8, split=None, parent=2))
    summary = run_export(
        tmp_path / "set", [run], **{"export.format": FORMATS, "export.split": "0.5/0.25/0.25"}
    )
    assert summary.counts["images"] == summary.counts["read"] == 8
    assert summary.tables["objects"] == {"plane": 8, "ship": 8, "storage-tank": 8}
    for name in FORMATS:
        if resolve("formats", name).read is None:
            continue
        found = read_dataset(tmp_path / "set/dataset" / name, format=name, classes=CLASSES)
        assert not found.failures
        assert Counter(s.split for s in found) == {"train": 4, "val": 2, "test": 2}
        assert {len(s.layout.instances) for s in found} == {OBJECTS_AND_STUFF.get(name, 3)}
    # tiles of one scene share a split
    lines = (tmp_path / "set/dataset/jsonl").glob("*.jsonl")
    texts = [f.read_text().splitlines() for f in lines]
    scenes = [{json.loads(t)["id"].split("#")[0] for t in text} for text in texts]
    assert sum(map(len, scenes)) == len(set.union(*scenes)) == 4
    card = (tmp_path / "set/dataset/README.md").read_text()
    assert "| plane | 4 | 2 | 2 | 8 |" in card
    assert "rsgen export extract-masks-" in card


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        pytest.param(
            "train",
            {"execution.batch_size": 3, "execution.dtype": "bf16", "train.scale_range": [0.8, 1.2]},
            id="what a learner's result depends on",
        ),
        pytest.param(
            "extract-masks",
            {"classes": [{"name": "plane", "aliases": ["airplane"]}, {"name": "a: b"}], "seed": 4},
            id="a class table",
        ),
        pytest.param(
            "generate",
            {"generate.prompt": "an image of {counts}[, {scene}]", "generate.count": 9,
             "generate.per_class": {"ship": 5}, "generate.gsd_m": 1e-06},
            id="texts that YAML would take apart",
        ),
        pytest.param("export", {"export.ratio": "1:1"}, id="a text that YAML takes for a number"),
    ],
)  # fmt: skip
def test_the_cards_line_asks_for_the_same_request(command: str, keys: dict[str, Any]) -> None:
    """Catches a key that makes the request, and is missing or read otherwise from the card."""
    settings = config(**keys)
    asked = request_keys(command, settings, (), {})
    model = InputRef("checkpoint", "hub:org/name", "0", "0")
    info = RunInfo(
        command, settings, Path("out"), request_fingerprint(asked), (model,), CLASSES, (), {}, None
    )
    words = shlex.split(command_line(info))
    assert words[2] == "hub:org/name"
    pairs = [text for flag, text in pairwise(words) if flag == "-s"]
    again = load_config(settings=parse_pairs(pairs), environ={})
    assert request_keys(command, again, (), {}) == asked
    assert again.generate.count == settings.generate.count


def test_two_exports_of_one_request_are_identical(tmp_path: Path) -> None:
    run = build(tmp_path / "run", real(5))
    run_export(tmp_path / "a/set", [run])
    run_export(tmp_path / "b/set", [run])
    assert data_of(tmp_path / "a/set") == data_of(tmp_path / "b/set")


def test_images_are_copied_whole_and_never_linked_to_the_source(tmp_path: Path) -> None:
    run = build(tmp_path / "run", synthetic(1))
    run_export(tmp_path / "set", [run], **{"export.format": ["coco", "dota"]})
    source = next((run / "images").iterdir())
    coco, dota = sorted((tmp_path / "set/dataset").rglob("*.png"))
    assert source.read_bytes() == coco.read_bytes() == dota.read_bytes()
    assert png_text(coco) == {"rsgen": "made"}
    assert source.stat().st_ino != coco.stat().st_ino  # an edit must not reach the run
    assert coco.stat().st_ino == dota.stat().st_ino


@pytest.mark.parametrize(
    ("verdict", "keys", "images"),
    [
        pytest.param("keep", {}, 3, id="kept"),
        pytest.param("drop", {}, 2, id="dropped"),
        pytest.param("unknown", {}, 2, id="unknown is left out"),
        pytest.param("unknown", {"export.include_unknown": True}, 3, id="unless asked for"),
        pytest.param(None, {}, 3, id="never filtered"),
    ],
)
def test_verdicts(tmp_path: Path, verdict: Any, keys: dict[str, Any], images: int) -> None:
    samples = synthetic(3)
    samples[1] = replace(samples[1], verdict=verdict)
    summary = run_export(tmp_path / "set", [build(tmp_path / "run", samples)], **keys)
    assert summary.counts["images"] == images
    skipped = sum(n for name, n in summary.counts.items() if name.startswith("skipped"))
    assert summary.counts["read"] == images + skipped == 3
    assert any("never filtered" in note for note in summary.notes) == (verdict is None)


@pytest.mark.parametrize(
    ("mode", "difficult"),
    [("difficult", [False, True]), ("keep", [False, False]), ("drop", [False])],
)
def test_objects_that_failed_a_rule(tmp_path: Path, mode: str, difficult: list[bool]) -> None:
    failing = instance("ship", 44, 40, 26, 9, scores={"contrast": 1.0}, reasons=("contrast 1",))
    run = build(tmp_path / "run", synthetic(1, of=layout((instance(), failing))))
    run_export(
        tmp_path / "set", [run], **{"export.format": ["dota"], "export.failed_objects": mode}
    )
    found = read_dataset(tmp_path / "set/dataset/dota", format="dota")
    assert sorted(i.difficult for s in found for i in s.layout.instances) == difficult


def test_an_object_outside_the_image_is_left_out_and_counted(tmp_path: Path) -> None:
    things = (instance(), instance("ship", 200, 200))
    summary = run_export(
        tmp_path / "set",
        [build(tmp_path / "run", real(1, of=layout(things)))],
        **{"export.format": FORMATS},
    )
    assert summary.tables["objects"] == {"plane": 1}
    assert "objects left out: 1 outside the image" in summary.notes


def test_nothing_left_is_a_data_error_that_counts(tmp_path: Path) -> None:
    run = build(tmp_path / "run", synthetic(2, verdict="drop"))
    with pytest.raises(DataError, match="2 dropped by the filter"):
        run_export(tmp_path / "set", [run])
    assert not (tmp_path / "set").exists()


def test_equal_ids_of_two_runs_are_two_images_and_one_image_twice_is_one(tmp_path: Path) -> None:
    one = build(tmp_path / "one", real(2))
    other = build(tmp_path / "other", real(2, of=layout((instance("ship"),))), seed=1)
    summary = run_export(
        tmp_path / "set", [one, other, one], **{"export.format": ["coco", "jsonl"]}
    )
    assert summary.counts["images"] == 4
    assert summary.counts["skipped, given twice"] == 2


def test_a_class_that_only_the_second_run_names_by_alias_is_exported(tmp_path: Path) -> None:
    """Catches a joined table that forgets the later runs' names: their labels were unknown."""
    one = build(tmp_path / "one", real(1, of=layout((instance("plane"),))),
                classes=ClassTable.of("plane"))  # fmt: skip
    table = ClassTable((ObjectClass("airliner", ("plane",)), ObjectClass("crane")))
    things = (instance("airliner"), instance("crane", 60, 60))
    other = build(tmp_path / "other", real(2, of=layout(things))[1:], classes=table)
    summary = run_export(tmp_path / "set", [one, other], **{"export.format": ["coco", "yolo"]})
    assert summary.tables["objects"] == {"crane": 1, "plane": 2}


def test_a_committed_export_given_by_a_relative_path_is_not_planned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a no-op that reads every sample again when --out is relative."""
    run = build(tmp_path / "run", real(2))
    monkeypatch.chdir(tmp_path)
    run_export(Path("set"), [run])
    job = Job("export", config(), Path("set"), {"run": [run]}, dry_run=True)
    assert export(job).notes == ("already done",)
    assert run_export(Path("set"), [run]).status == "no-op"


# ---------------------------------------------------------------- splits and learners


@pytest.mark.parametrize("text", ["0.7/0.3", "a/b/c", "0.7/0.2/0.2", "1.2/-0.1/-0.1", "70/20/10"])
def test_split_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="three shares"):
        parse_split(text)


@pytest.mark.parametrize("text", ["1", "1:0", "a:b", "1:2:3", "-1:1"])
def test_ratio_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="two positive"):
        parse_ratio(text)


def learned(tmp_path: Path) -> tuple[Path, Path]:
    """Real samples, and synthetic ones whose model has learned from them."""
    reals = build(tmp_path / "masks", real(6, split=None))
    model = trained(tmp_path / "model", reals)
    made = build(tmp_path / "kept", synthetic(4), command="filter")
    link_inputs(made, ("checkpoint", model))
    return reals, made


def test_a_split_that_something_has_learned_from_is_not_redrawn(tmp_path: Path) -> None:
    reals, made = learned(tmp_path)
    with pytest.raises(UsageError, match=r"model \(train\) has learned from .* masks"):
        run_export(tmp_path / "set", [made], reals, **{"export.split": "0.7/0.2/0.1"})
    with pytest.raises(UsageError, match=r"every sample is synthetic, .*model \(train\)"):
        run_export(tmp_path / "set", [made], **{"export.split": "0.7/0.2/0.1"})
    alone = build(tmp_path / "alone", synthetic(2))  # its model's run is not at hand
    with pytest.raises(UsageError, match="every sample is synthetic"):
        run_export(tmp_path / "set", [alone], **{"export.split": "0.7/0.2/0.1"})
    assert not (tmp_path / "set").exists()
    assert run_export(tmp_path / "set", [made], reals).counts["images"] == 10


def test_reals_that_nothing_learned_from_may_be_split_beside_synthetic_ones(
    tmp_path: Path,
) -> None:
    _, made = learned(tmp_path)
    fresh = build(tmp_path / "fresh", real(10, of=layout((instance(),))), seed=5)
    summary = run_export(
        tmp_path / "set",
        [made],
        fresh,
        **{"export.split": "0.6/0.2/0.2", "export.format": ["coco"]},
    )
    assert summary.tables["images"] == {"train": 10, "val": 2, "test": 2}


def test_a_scene_whose_shapes_were_used_keeps_its_split(tmp_path: Path) -> None:
    reals = build(tmp_path / "masks", real(6))
    made = Provenance("synthetic", sources=("scene-2.png",))
    kept = build(tmp_path / "kept", synthetic(2, provenance=made))
    with pytest.raises(UsageError, match=r"made with shapes or the layout of scene-2"):
        run_export(tmp_path / "set", [kept], reals, **{"export.split": "0.7/0.2/0.1"})


def test_given_splits_are_kept_and_synthetic_samples_train(tmp_path: Path) -> None:
    reals = build(tmp_path / "masks", [*real(2), *real(4, split="test")[2:]])
    made = build(tmp_path / "kept", synthetic(3, split="val"))
    summary = run_export(tmp_path / "set", [made], reals)
    assert summary.tables["images"] == {"train": 5, "test": 2}


@pytest.mark.parametrize(
    ("ratio", "train"),
    [
        pytest.param("1:1", {"real": 3, "synthetic": 3}, id="reals thinned"),
        pytest.param("3:1", {"real": 6, "synthetic": 2}, id="synthetic thinned"),
        pytest.param("2:1", {"real": 6, "synthetic": 3}, id="fits"),
    ],
)
def test_ratio_thins_train_alone(tmp_path: Path, ratio: str, train: dict[str, int]) -> None:
    reals = build(tmp_path / "masks", [*real(6), *real(8, split="val")[6:]])
    made = build(tmp_path / "kept", synthetic(3))
    keys = {"export.ratio": ratio, "export.format": ["jsonl"]}
    summary = run_export(tmp_path / "set", [made], reals, **keys)
    lines = (tmp_path / "set/dataset/jsonl/train.jsonl").read_text().splitlines()
    assert Counter(json.loads(json.loads(t)["provenance"])["kind"] for t in lines) == train
    assert summary.tables["images"]["val"] == 2
    run_export(tmp_path / "again", [made], reals, **keys)
    assert (tmp_path / "again/dataset/jsonl/train.jsonl").read_text().splitlines() == lines


def test_ratio_needs_both_kinds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs real and synthetic"):
        run_export(
            tmp_path / "set", [build(tmp_path / "k", synthetic(2))], **{"export.ratio": "1:1"}
        )


# ---------------------------------------------------------------- codecs


def test_match_real_takes_the_tables_of_the_reals(tmp_path: Path) -> None:
    reals = build(tmp_path / "masks", real(4), suffix=".jpg")
    made = build(tmp_path / "kept", synthetic(6))
    summary = run_export(
        tmp_path / "set",
        [made],
        reals,
        **{"export.image_format": "match-real", "export.format": ["coco"]},
    )
    donors = survey(sorted((reals / "images").iterdir()))
    images = sorted((tmp_path / "set/dataset/coco/images/train").iterdir())
    assert len(images) == summary.counts["images"] == 10
    assert {p.suffix for p in images} == {".jpg"}
    for path in images:
        assert survey([path])[0] in donors
        if path.stem.startswith("ffff"):
            with Image.open(path) as image:
                assert b"made" in image.info["comment"]
    originals = {p.read_bytes() for p in (reals / "images").iterdir()}
    assert originals == {p.read_bytes() for p in images if p.stem.startswith("scene")}


def test_match_real_needs_a_real(tmp_path: Path) -> None:
    run = build(tmp_path / "kept", synthetic(1))
    with pytest.raises(UsageError, match="no real sample to match"):
        run_export(tmp_path / "set", [run], **{"export.image_format": "match-real"})


@pytest.mark.parametrize(("wanted", "suffix"), [("jpg", ".jpg"), ("png", ".png")])
def test_one_codec_for_all(tmp_path: Path, wanted: str, suffix: str) -> None:
    reals = build(tmp_path / "masks", real(2), suffix=".jpg")
    made = build(tmp_path / "kept", synthetic(2))
    run_export(tmp_path / "set", [made], reals, **{"export.image_format": wanted})
    files = [p for p in (tmp_path / "set/dataset/coco/images").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {suffix}
    assert len(files) == 4


def test_a_synthetic_image_without_text_gets_its_provenance(tmp_path: Path) -> None:
    item = synthetic(1)[0]
    write_png(tmp_path / "a.png", picture(item.layout))
    assert place_image(tmp_path / "a.png", tmp_path / "b.png", item, None) is False
    assert json.loads(png_text(tmp_path / "b.png")["rsgen"])["id"] == item.id


@pytest.mark.parametrize("wanted", ["png", "jpg"])
def test_an_image_that_changed_since_is_refused(tmp_path: Path, wanted: str) -> None:
    """Catches a check that is made where files are copied, not where they are coded anew."""
    run = build(tmp_path / "run", real(2))
    write_png(next((run / "images").iterdir()), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match="has changed since"):
        run_export(tmp_path / "set", [run], **{"export.image_format": wanted})
    assert not (tmp_path / "set/dataset").exists()


# ---------------------------------------------------------------- kills and faults


class StopAfter(Control):
    """Stops at the n-th check, as a signal would."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self._left = checks

    def check(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.request_stop("test")
        super().check()


@pytest.mark.parametrize("checks", [0, 2, 4, 5])
def test_a_stopped_export_starts_over_and_ends_the_same(tmp_path: Path, checks: int) -> None:
    run = build(tmp_path / "run", real(4))
    run_export(tmp_path / "whole", [run])
    job = Job("export", config(), tmp_path / "set", {"run": [run]}, control=StopAfter(checks))
    with pytest.raises(Stopped):
        export(job)
    assert not (tmp_path / "set/dataset").exists()
    run_export(tmp_path / "set", [run])
    assert data_of(tmp_path / "set") == data_of(tmp_path / "whole")


def test_killed_between_rename_and_commit(tmp_path: Path) -> None:
    run = build(tmp_path / "run", real(3))
    first = run_export(tmp_path / "set", [run])
    before = data_of(tmp_path / "set")
    (tmp_path / "set/manifest.json").unlink()
    second = run_export(tmp_path / "set", [run])
    assert second.counts == first.counts
    assert data_of(tmp_path / "set") == before
    assert run_export(tmp_path / "set", [run]).status == "no-op"


def test_a_format_that_can_hold_nothing_is_refused_before_out_is_taken(tmp_path: Path) -> None:
    """Catches an OUT that only the refused line could ever use again."""
    run = build(tmp_path / "run", real(2))
    with pytest.raises(DataError, match="geotiff: all 2 images are without a position"):
        run_export(tmp_path / "set", [run], **{"export.format": ["coco", "geotiff"]})
    assert not (tmp_path / "set").exists()
    assert run_export(tmp_path / "set", [run], **{"export.format": ["coco"]}).exit_code == 0


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    run = build(tmp_path / "run", real(2))
    job = Job("export", config(), tmp_path / "set", {"run": [run]}, control=StopAfter(0))
    with pytest.raises(Stopped):
        export(job)
    (tmp_path / "set/dataset").mkdir()
    (tmp_path / "set/dataset/mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="did not write it"):
        run_export(tmp_path / "set", [run])
    assert (tmp_path / "set/dataset/mine.txt").read_text() == "keep me"


def damage(folder: Path, kind: str) -> None:
    label = sorted(folder.rglob("labelTxt/*.txt"))[0]
    lines = label.read_text().splitlines(keepends=True)
    if kind == "a label lost":
        lines.pop()
    elif kind == "a label moved":
        fields = lines[-1].split()
        lines[-1] = " ".join([f"{float(fields[0]) - 0.5}", *fields[1:]]) + "\n"
    elif kind == "a label of another class":
        lines[-1] = lines[-1].replace("storage-tank", "ship")
    elif kind == "an unreadable label":
        lines[-1] = "1 2 3 plane 0\n"
    else:
        label.unlink()
        return
    label.write_text("".join(lines))


@pytest.mark.parametrize(
    "kind",
    [
        "a label lost",
        "a label moved",
        "a label of another class",
        "an unreadable label",
        "a file lost",
    ],
)
def test_reading_back_finds_damage(tmp_path: Path, kind: str) -> None:
    run = build(tmp_path / "run", real(2))
    run_export(tmp_path / "set", [run], **{"export.format": ["dota"]})
    folder = tmp_path / "set/dataset/dota"
    names = [f"scene-{k}.png_0_0" for k in range(2)]
    files = {p.stem: p.name for p in (folder / "train/images").iterdir()}
    expected = [
        (name, "train", item)
        for name, item in zip(sorted(files.values()), open_samples(run), strict=True)
    ]
    assert check_format(folder, "dota", CLASSES, expected, {"train"}).total() == 6, names
    damage(folder, kind)
    with pytest.raises(DataError, match="export check of dota"):
        check_format(folder, "dota", CLASSES, expected, {"train"})


def test_progress_counts_images_as_they_are(tmp_path: Path) -> None:
    """Catches twice as many images as there are, and read-back that stands still."""
    seen: list[tuple[str, int | None, int]] = []

    class Watcher(NullReporter):
        def stage(self, name: str, total: int | None, unit: str = "item") -> None:
            seen.append((name, total, 0))

        def advance(self, count: int = 1) -> None:
            name, total, done = seen[-1]
            seen[-1] = (name, total, done + count)

    run = build(tmp_path / "run", real(3))
    settings = config(**{"export.format": ["coco", "yolo"]})
    export(Job("export", settings, tmp_path / "set", {"run": [run]}, reporter=Watcher()))
    assert seen == [("export", 3, 3), ("reading back", 6, 6)]


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    run = build(tmp_path / "run", real(2))
    summary = export(Job("export", config(), tmp_path / "set", {"run": [run]}, dry_run=True))
    assert summary.status == "dry-run"
    assert summary.counts["images"] == 2
    assert not (tmp_path / "set").exists()


def test_category_ids_from_a_file(tmp_path: Path) -> None:
    names = {"plane": 7, "ship": 3, "storage tank": 90}
    wanted = [{"id": v, "name": k} for k, v in names.items()]
    (tmp_path / "ids.json").write_text(json.dumps({"categories": wanted}))
    run = build(tmp_path / "run", real(1))
    keys = {"export.category_ids": f"from={tmp_path}/ids.json", "export.format": ["coco"]}
    run_export(tmp_path / "set", [run], **keys)
    text = (tmp_path / "set/dataset/coco/annotations/instances_train.json").read_text()
    assert {a["category_id"] for a in json.loads(text)["annotations"]} == {7, 3, 90}
    shutil.rmtree(tmp_path / "set")
