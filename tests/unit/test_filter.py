"""The filter command: planted faults are found, and order, shards and restarts change nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rsgen.errors import TooManyFailures, UsageError
from rsgen.execution import Job, run_stage
from rsgen.geometry import Box
from rsgen.images import write_png
from rsgen.mask import Mask
from rsgen.records import Instance, Layout, Sample
from rsgen.reporting import RunSummary
from rsgen.store import open_samples, part_path, read_failures
from tests.build import config, data_of, sample_run

SIDE = 64


def image_of(seed: int, contrast: int = 60) -> np.ndarray:
    """Smooth ground with two objects that stand `contrast` above it."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(
        rng.uniform(60, 150, (6, 6, 3)).astype(np.float32), (SIDE, SIDE),
        interpolation=cv2.INTER_CUBIC,
    )  # fmt: skip
    for box in BOXES:
        ground[box.y0 : box.y1, box.x0 : box.x1] += contrast
    return np.clip(ground + rng.normal(0, 3, ground.shape), 0, 255).astype(np.uint8)


class Place:
    def __init__(self, x0: int, y0: int) -> None:
        self.x0, self.y0, self.x1, self.y1 = x0, y0, x0 + 12, y0 + 10


BOXES = (Place(8, 8), Place(40, 34))


def two_planes() -> Layout:
    things = tuple(
        Instance(
            "plane",
            box=Box(b.x0, b.y0, b.x1, b.y1),
            mask=Mask.from_array(np.ones((10, 12), bool), b.x0, b.y0),
        )
        for b in BOXES
    )
    return Layout(SIDE, SIDE, things)


def build(out: Path, pictures: list[np.ndarray], **more: Any) -> Path:
    """A generate run whose images are these."""
    samples = []
    for k, picture in enumerate(pictures):
        name = f"images/{k:06d}.png"
        digest = write_png(out / name, picture)
        samples.append(Sample(f"s{k}", two_planes(), image=name, sha256=digest, split="train"))
    return sample_run(out, samples, command="generate", images=False, **more).path


def good(count: int, start: int = 0) -> list[np.ndarray]:
    return [image_of(start + k) for k in range(count)]


def run_filter(out: Path, run: Path, real: Path | None = None, **keys: Any) -> RunSummary:
    inputs = {"run": [run], **({"real": [real]} if real else {})}
    return run_stage(Job("filter", config(**keys), out, inputs))


def verdicts(out: Path) -> dict[str, str]:
    return {s.id: f"{s.verdict}" for s in open_samples(out)}


# ---------------------------------------------------------------- what is found


def test_planted_faults_are_dropped_with_their_reason(tmp_path: Path) -> None:
    hidden = np.random.default_rng(9).normal(110, 6, (SIDE, SIDE, 3)).astype(np.uint8)
    pictures = [*good(4), np.full((SIDE, SIDE, 3), 80, np.uint8), hidden]
    pictures.append(pictures[1][:, ::-1].copy())
    summary = run_filter(tmp_path / "kept", build(tmp_path / "run", pictures))
    samples = {s.id: s for s in open_samples(tmp_path / "kept")}
    assert [samples[f"s{k}"].verdict for k in range(4)] == ["keep"] * 4
    assert samples["s4"].reasons[0].startswith("integrity 0 ")
    assert samples["s5"].reasons == ("contrast 2 of 2 objects fail (min 3)",)
    assert samples["s6"].reasons[-1] == "novelty-hash 0 (min 0.1), like s1"
    assert all(i.reasons for i in samples["s5"].layout.instances)
    assert summary.counts["kept"] == 4
    assert summary.counts["kept"] + summary.counts["dropped"] == summary.counts["samples"] == 7
    assert summary.tables["objects kept"] == {"plane": "8 of 14"}
    assert Path(summary.artifacts["contact sheet kept"]).is_file()


def test_both_sheets_name_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a dropped image that nobody can ask `why` about: its sheet told only reasons."""
    told: dict[str, list[str]] = {}

    def sheet(_: object, path: Path, titles: list[str]) -> Path:
        told[path.name] = titles
        return path

    monkeypatch.setattr("rsgen.scorers.report.contact_sheet", sheet)
    pictures = [*good(2), np.full((SIDE, SIDE, 3), 80, np.uint8)]
    run_filter(tmp_path / "kept", build(tmp_path / "run", pictures))
    assert told["kept.png"] == ["s0", "s1"]
    (title,) = told["dropped.png"]
    assert title.startswith("s2 integrity 0")


def test_the_pixels_of_the_input_stay_where_they_are(tmp_path: Path) -> None:
    run = build(tmp_path / "run", good(3))
    before = data_of(run)
    run_filter(tmp_path / "kept", run)
    assert data_of(run) == before
    assert not (tmp_path / "kept" / "images").exists()
    kept = open_samples(tmp_path / "kept")
    assert all(kept.image_path(s).is_file() for s in kept)


def test_a_copy_of_a_real_image_is_dropped(tmp_path: Path) -> None:
    real = build(tmp_path / "real", good(3))
    run = build(tmp_path / "run", [*good(2, start=10), np.rot90(image_of(2)).copy()])
    run_filter(tmp_path / "kept", run, real, **{"filter.rules": [HASH]})
    assert verdicts(tmp_path / "kept") == {"s0": "keep", "s1": "keep", "s2": "drop"}


HASH = {"scorer": "novelty-hash", "min": 0.1}


def test_real_data_filtered_against_itself_is_kept(tmp_path: Path) -> None:
    real = build(tmp_path / "real", good(5))
    summary = run_filter(tmp_path / "kept", real, real, **{"filter.rules": [HASH]})
    assert summary.counts["kept"] == 5


def test_an_unreadable_image_is_unknown_and_a_row(tmp_path: Path) -> None:
    run = build(tmp_path / "run", good(3))
    (run / "images/000001.png").write_bytes(b"torn")
    with pytest.raises(TooManyFailures):
        run_filter(tmp_path / "strict", run)
    run_filter(tmp_path / "kept", run, **{"execution.max_failure_rate": 0.5})
    assert verdicts(tmp_path / "kept") == {"s0": "keep", "s1": "unknown", "s2": "keep"}
    assert [f.item for f in read_failures(tmp_path / "kept")] == ["s1"]


def test_an_image_that_was_mended_is_compared_with(tmp_path: Path) -> None:
    """Catches signatures of a failed start that outlive the repair: the copy was kept."""
    run = build(tmp_path / "run", [*good(3), image_of(1)])
    whole = {name: (run / name).read_bytes() for name in IMAGES}
    for name in IMAGES:
        (run / name).write_bytes(b"torn")
    keys = {"execution.shard_size": 2, "filter.rules": [HASH]}
    with pytest.raises(TooManyFailures):
        run_filter(tmp_path / "kept", run, **keys)
    for name, data in whole.items():
        (run / name).write_bytes(data)
    run_filter(tmp_path / "kept", run, **keys)
    assert verdicts(tmp_path / "kept") == {"s0": "keep", "s1": "keep", "s2": "keep", "s3": "drop"}


IMAGES = ("images/000001.png", "images/000003.png")


def test_latents_of_the_given_checkpoint_find_copies(tmp_path: Path) -> None:
    """The rule joins by itself when a checkpoint is given; its weights enter the request."""
    from tests.build_models import save_model

    model = save_model(tmp_path / "model")
    pictures = [*good(2), image_of(0)]
    pictures[2][:2] += 3  # no byte-for-byte copy
    run = build(tmp_path / "run", pictures)
    inputs = {"run": [run], "checkpoint": [model.path]}
    rules = [{"scorer": "novelty-latent", "min": 0.01}]
    job = Job("filter", config(**{"filter.rules": rules}), tmp_path / "kept", inputs)
    run_stage(job)
    assert verdicts(tmp_path / "kept") == {"s0": "keep", "s1": "keep", "s2": "drop"}
    info = json.loads((tmp_path / "kept/run.json").read_text())
    assert list(info["model_hashes"]) == ["novelty-latent"]
    run_stage(Job("filter", config(), tmp_path / "default", inputs))
    kept = next(s for s in open_samples(tmp_path / "default") if s.id == "s1")
    assert set(kept.scores) == {
        "integrity", "focus", "label-geometry", "contrast", "novelty-hash", "novelty-latent"
    }  # fmt: skip


# ---------------------------------------------------------------- thresholds


def test_a_quantile_is_taken_of_the_real_scores_and_frozen(tmp_path: Path) -> None:
    real = build(tmp_path / "real", [image_of(k, contrast=20 + 5 * k) for k in range(6)])
    run = build(tmp_path / "run", good(2, start=20))
    rule = {"scorer": "contrast", "quantile": 0.25}
    run_filter(tmp_path / "kept", run, real, **{"filter.rules": [rule]})
    frozen = json.loads((tmp_path / "kept/thresholds.json").read_text())
    run_filter(tmp_path / "of real", real, **{"filter.rules": [{"scorer": "contrast", "min": 0}]})
    scores = [
        i.scores["contrast"] for s in open_samples(tmp_path / "of real")
        for i in s.layout.instances
    ]  # fmt: skip
    assert frozen["rules"]["contrast"]["min"] == pytest.approx(np.quantile(scores, 0.25))
    assert frozen["real_count"] == 6


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param({"scorer": "contrast", "quantile": 0.1}, id="that set a bound"),
        pytest.param(HASH, id="that are compared with"),
    ],
)
def test_real_images_that_fail_are_named_and_counted(tmp_path: Path, rule: dict[str, Any]) -> None:
    """Catches a real image that vanishes from bounds and comparison without a word."""
    real = build(tmp_path / "real", good(4))
    (real / "images/000002.png").write_bytes(b"torn")
    run = build(tmp_path / "run", good(2, start=20))
    summary = run_filter(tmp_path / "kept", run, real, **{"filter.rules": [rule]})
    assert any("1 of 4 real images" in note and "(s2)" in note for note in summary.notes)
    frozen = json.loads((tmp_path / "kept/thresholds.json").read_text())
    assert frozen["real_failed"] == ["s2"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        pytest.param(
            {"filter.rules": [{"scorer": "contrast", "quantile": 0.1}]}, "--real", id="no reals"
        ),
        pytest.param({"filter.rules": [HASH, HASH]}, "distinct", id="one name twice"),
        pytest.param(
            {"filter.rules": [{"scorer": "contrast", "min": 1, "options": {"rng": 1}}]},
            "no option 'rng'",
            id="an unknown option",
        ),
        pytest.param({"filter.rescore": "none"}, "not a filter run", id="nothing to rescore"),
    ],
)
def test_refused_before_anything_is_written(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    run = build(tmp_path / "run", good(1))
    with pytest.raises(UsageError, match=words):
        run_filter(tmp_path / "kept", run, **keys)
    assert not (tmp_path / "kept").exists()


def test_rescore_none_needs_no_pixels(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [image_of(k, contrast=10 + 10 * k) for k in range(6)])
    rule = {"scorer": "contrast", "min": 3.0}
    run_filter(tmp_path / "old", run, **{"filter.rules": [rule, HASH]})
    shutil.rmtree(run / "images")
    keys = {"filter.rescore": "none", "filter.rules": [{**rule, "min": 20.0}, HASH]}
    summary = run_filter(tmp_path / "new", tmp_path / "old", **keys)
    old = {s.id: s for s in open_samples(tmp_path / "old")}
    new = {s.id: s for s in open_samples(tmp_path / "new")}
    assert summary.counts["failures"] == 0
    for name, item in new.items():
        assert item.scores == old[name].scores
        worst = min(i.scores["contrast"] for i in item.layout.instances)
        assert (item.verdict == "drop") == (worst < 20.0)
    assert len({s.verdict for s in new.values()}) == 2
    with pytest.raises(UsageError, match="has no scores for integrity"):
        run_filter(tmp_path / "x", tmp_path / "old", **{"filter.rescore": "none"})


@pytest.mark.parametrize(("share", "code"), [(0.5, 0), (0.9, 7)])
def test_fail_under_commits_and_says_seven_again(tmp_path: Path, share: float, code: int) -> None:
    run = build(tmp_path / "run", [*good(3), np.zeros((SIDE, SIDE, 3), np.uint8)])
    first = run_filter(tmp_path / "kept", run, **{"filter.fail_under": share})
    again = run_filter(tmp_path / "kept", run, **{"filter.fail_under": share})
    assert (first.exit_code, again.exit_code) == (code, code)
    assert again.status == "no-op"


# ---------------------------------------------------------------- order does not matter


def duplicates() -> list[np.ndarray]:
    """Ten images; 4, 7 and 9 repeat earlier ones."""
    pictures = good(10)
    pictures[4], pictures[7], pictures[9] = pictures[1], pictures[0], pictures[1]
    return pictures


QUOTA = {"filter.quotas": {"airplane": 9}}


@pytest.mark.parametrize("quotas", [{}, QUOTA], ids=["no quota", "quota"])
def test_shards_slices_and_restarts_give_the_same_verdicts(
    tmp_path: Path, quotas: dict[str, Any]
) -> None:
    run = build(tmp_path / "run", duplicates())
    whole = tmp_path / "whole"
    run_filter(whole, run, **quotas)
    expected = {s.id: (s.verdict, s.reasons, s.scores) for s in open_samples(whole)}
    for size in (1, 3):
        out = tmp_path / f"size {size}"
        keys = {**quotas, "execution.shard_size": size}
        # the later slice first: its worker must not need what earlier shards left behind
        for index in (1, 0):
            job = Job("filter", config(**keys), out, {"run": [run]}, slice_of=(index, 2))
            run_stage(job)
        run_filter(out, run, **keys)
        found = {s.id: (s.verdict, s.reasons, s.scores) for s in open_samples(out)}
        assert found == expected
        before = data_of(out)
        shutil.rmtree(out / "state", ignore_errors=True)
        (out / "manifest.json").unlink()
        part_path(out, 2).unlink()
        run_filter(out, run, **keys)
        after = data_of(out)
        assert {k: v for k, v in after.items() if not k.startswith("state/")} == {
            k: v for k, v in before.items() if not k.startswith("state/")
        }
    dropped = [k for k, (verdict, _, _) in expected.items() if verdict == "drop"]
    assert {"s4", "s7", "s9"} <= set(dropped)


def test_a_quota_is_never_exceeded_and_leaves_the_earliest(tmp_path: Path) -> None:
    run = build(tmp_path / "run", good(6))
    run_filter(tmp_path / "kept", run, **{"filter.quotas": {"airplane": 5}})
    kept = [s for s in open_samples(tmp_path / "kept") if s.verdict == "keep"]
    objects = Counter(i.label for s in kept for i in s.layout.instances)
    assert objects == {"plane": 4}  # the third image would make six
    assert [s.id for s in kept] == ["s0", "s1"]
    last = list(open_samples(tmp_path / "kept"))[-1]
    assert last.reasons == ("quota plane (max 5)",)


def test_a_grown_input_extends_and_changes_no_earlier_verdict(tmp_path: Path) -> None:
    pictures = duplicates()
    run = build(tmp_path / "run", pictures[:6], shard_size=2)
    out = tmp_path / "kept"
    run_filter(out, run, **{"execution.shard_size": 2})
    before = {p.name: p.read_bytes() for p in (out / "parts").iterdir()}
    shutil.rmtree(run)
    build(run, pictures, shard_size=2)
    run_filter(out, run, **{"execution.shard_size": 2})
    after = {p.name: p.read_bytes() for p in (out / "parts").iterdir()}
    assert {name: after[name] for name in before} == before
    assert verdicts(out)["s9"] == "drop"
    assert len(verdicts(out)) == 10


def test_an_older_verdict_does_not_count_twice(tmp_path: Path) -> None:
    """A filter run filtered again gives the verdict of one filtering."""
    run = build(tmp_path / "run", duplicates())
    run_filter(tmp_path / "one", run)
    run_filter(tmp_path / "two", tmp_path / "one")
    assert list(open_samples(tmp_path / "two")) == list(open_samples(tmp_path / "one"))
