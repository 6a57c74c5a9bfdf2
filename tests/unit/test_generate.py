"""The generate stage: labels are the input layouts, whatever the batch, shard or worker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.errors import DataError, OutOfMemory, SetupError, TooManyFailures, UsageError
from rsgen.execution import run_stage
from rsgen.generation.naming import known_classes
from rsgen.generation.painter import Painter, memory_error
from rsgen.images import png_text
from rsgen.pool import MaskPool, build_mask_pool
from rsgen.records import ClassTable, Sample
from rsgen.reporting import NullReporter, RunSummary
from rsgen.request import RunInfo, item_seed
from rsgen.runs import Job
from rsgen.store import input_ref, open_samples, read_failures
from tests.build import CLASSES, config, data_of, instance, layout, sample, sample_run, water
from tests.build_models import SIZE, save_model

CANVAS = (SIZE, SIZE)
QUICK = {"generate.steps": 2, "execution.max_failure_rate": 0.0}


@dataclass(frozen=True)
class Place:
    """Inputs that every test shares; each makes its own outputs in `fresh()`."""

    model: Path
    real: Path
    pool: Path
    samples: tuple[Sample, ...]


def _small_layout(k: int) -> Any:
    """Three objects whose shapes differ from scene to scene, so that a pool keeps each."""
    plane = instance("plane", 9, 9, 10 + k % 3, 6, 0.2 * k, size=CANVAS)
    ship = instance("ship", 21, 22, 13, 5 + k % 2, 0.5 + 0.1 * k, size=CANVAS)
    tank = instance("storage-tank", 24, 8, 7 + k % 2, 7 + k % 2, 0.0, size=CANVAS)
    return layout((water(CANVAS), plane, ship, tank), size=CANVAS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("generate")
    splits = ["train"] * 6 + ["val", "test"]
    samples = [
        sample(f"scene-{k}.png", _small_layout(k), split=split) for k, split in enumerate(splits)
    ]
    run = sample_run(root / "real", samples)
    keys = {"build_mask_pool.min_area_px": 8, "build_mask_pool.min_score": 0.0}
    build_mask_pool(Job("build-mask-pool", config(**keys), root / "pool", {"run": [run.path]}))
    model = save_model(root / "model").path
    return Place(model, run.path, root / "pool", run.samples)


Generate = Callable[..., RunSummary]


@pytest.fixture
def generate(place: Place, tmp_path: Path) -> Generate:
    def call(name: str = "out", *sources: str, inputs: Any = None, **keys: Any) -> RunSummary:
        paths = {key: [getattr(place, {"layouts": "real"}.get(key, key))] for key in sources}
        return run_stage(
            Job(
                "generate",
                config(**{**QUICK, **keys}),
                tmp_path / name,
                {"checkpoint": [place.model], **paths, **(inputs or {})},
            )
        )

    return call


def _keys(**keys: Any) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in keys.items()}


def _records(summary: RunSummary) -> list[Sample]:
    return list(open_samples(Path(summary.out)))


# ---------------------------------------------------------------- labels


def test_the_label_is_the_input_layout_exactly(generate: Generate, place: Place) -> None:
    """Catches labels that are re-fitted, clipped or reordered on the way."""
    summary = generate("out", "layouts", **_keys(generate__per_layout=2))
    made = _records(summary)
    train = [s for s in place.samples if s.split == "train"]
    assert [s.layout for s in made] == [s.layout for s in train for _ in range(2)]
    for k, got in enumerate(made):
        source = train[k // 2]
        assert got.id == f"{open_samples(Path(summary.out)).fingerprint[:8]}-{k:06d}"
        assert (got.split, got.provenance.kind) == ("train", "synthetic")
        assert got.parent == source.parent
        assert source.id in got.provenance.sources
        assert got.provenance.seed == item_seed(0, "generate", str(k))
    assert summary.counts["same_source"] == 3 * len(made)


def test_layouts_of_val_and_test_are_left_out_and_said(generate: Generate, place: Place) -> None:
    """Catches test labels that reach a training set as synthetic images."""
    summary = generate("out", "layouts")
    held = {s.id for s in place.samples if s.split != "train"}
    assert all(held.isdisjoint(s.provenance.sources) for s in _records(summary))
    assert any("2 layouts left out" in note for note in summary.notes)
    asked = generate("held", "layouts", **_keys(generate__layout_splits=["val"]))
    assert [s.split for s in _records(asked)] == ["val"], "never train by way of generate"


@pytest.mark.parametrize("mode", ["resample", "perturb"])
def test_no_mask_comes_from_the_image_whose_layout_is_used(
    mode: str, generate: Generate, place: Place
) -> None:
    """Catches the leak that makes a filter's comparison with the source meaningless."""
    summary = generate("out", "layouts", "pool", **_keys(generate__mode=mode))
    pool = MaskPool.load(place.pool)
    sources = {
        row["id"]: set(row["sources"]) for row in pool.table.select(["id", "sources"]).to_pylist()
    }
    used = 0
    for made in _records(summary):
        for item in made.layout.instances:
            if item.origin.startswith("pool:"):
                used += 1
                mask = item.origin.removeprefix("pool:").split("#")[0]
                assert made.parent not in sources[mask]
    assert used > 0
    assert summary.counts.get("same_source", 0) == 0


def test_larger_and_smaller_layouts_keep_their_scale(generate: Generate, tmp_path: Path) -> None:
    """Catches a layout that is shrunk to the model's canvas in silence."""
    big = sample("big.png", layout(size=(64, 64)))
    tiny = sample("tiny.png", layout((instance("plane", 8, 8, 9, 5, size=(16, 16)),), (16, 16)))
    run = sample_run(tmp_path / "sizes", [big, tiny])
    summary = generate("out", inputs={"layouts": [run.path]})
    first, second = _records(summary)
    assert {(s.layout.width, s.layout.height) for s in (first, second)} == {CANVAS}
    assert first.layout.gsd_m == second.layout.gsd_m == 0.5
    box = second.layout.instances[0].box
    before = tiny.layout.instances[0].box
    assert box is not None and before is not None
    assert (box.x0, box.y1) == pytest.approx((before.x0 + 8, before.y1 + 8))
    assert any("cut, not shrunk" in note for note in summary.notes)


def test_labels_in_a_text_format_need_no_images(generate: Generate, tmp_path: Path) -> None:
    """DOTA text alone: `--layouts` takes any format, without pictures."""
    folder = tmp_path / "dota" / "labelTxt"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("gsd:0.5\n4 4 20 4 20 12 4 12 plane 0\n")
    summary = generate("out", inputs={"layouts": [tmp_path / "dota"]}, **_keys(generate__size=SIZE))
    (made,) = _records(summary)
    assert [i.label for i in made.layout.instances] == ["plane"]


def _dota(root: Path, layouts: dict[str, Any]) -> Path:
    """Label text alone, as the source of a run would have it."""
    folder = root / "labelTxt"
    folder.mkdir(parents=True)
    for name, of in layouts.items():
        lines = [
            " ".join(f"{v:.3f}" for point in i.quad for v in point) + f" {i.label} 0"
            for i in of.instances
            if i.quad is not None
        ]
        (folder / f"{name}.txt").write_text("\n".join(["gsd:0.5", *lines]))
    return root


def test_raw_labels_of_held_out_scenes_are_left_out(
    generate: Generate, place: Place, tmp_path: Path
) -> None:
    """Catches val and test scenes that come back as synthetic train images by way of raw labels.

    The run calls a scene `scene-0.png`, its labels alone `scene-0`.
    """
    raw = _dota(tmp_path / "raw", {s.id[:-4]: s.layout for s in place.samples})
    keys = _keys(generate__size=SIZE)
    summary = generate("pool", inputs={"layouts": [raw], "pool": [place.pool]}, **keys)
    made = _records(summary)
    assert {s.parent for s in made} == {s.id for s in place.samples if s.split == "train"}
    assert any("2 layouts have no split" in note for note in summary.notes)
    alone = generate("alone", inputs={"layouts": [raw]}, **keys)
    assert len(_records(alone)) == 6  # of eight, one each is val and test
    assert any("8 layouts drawn 80/10/10" in note for note in alone.notes)


@pytest.mark.parametrize("prefix", ["", "A-"], ids=["no suffix", "another folder"])
def test_an_object_gets_no_mask_of_its_own_image_under_another_name(
    prefix: str, generate: Generate, place: Place, tmp_path: Path
) -> None:
    """Catches a source guard that compares spellings: the pool knows `images/p.png`, not `p`."""
    named = f"{prefix}/images/scene-0.png".lstrip("/")
    run = sample_run(tmp_path / "run", [sample(named, _small_layout(0))])
    pools = {"build_mask_pool.min_area_px": 8, "build_mask_pool.min_score": 0.0}
    job = Job("build-mask-pool", config(**pools), tmp_path / "pool", {"run": [run.path]})
    build_mask_pool(job)
    raw = _dota(tmp_path / "raw", {"scene-0": _small_layout(0)})
    inputs = {"layouts": [raw], "pool": [tmp_path / "pool"]}
    (made,) = _records(generate("out", inputs=inputs, **_keys(generate__size=SIZE)))
    assert not [i for i in made.layout.instances if i.origin.startswith("pool:")]
    assert made.parent == named


def test_scenes_that_cannot_be_matched_are_said(
    generate: Generate, place: Place, tmp_path: Path
) -> None:
    raw = _dota(tmp_path / "raw", {"elsewhere": _small_layout(0)})
    inputs = {"layouts": [raw], "pool": [place.pool]}
    summary = generate("out", inputs=inputs, **_keys(generate__size=SIZE))
    assert any("cannot be matched with the pool's" in note for note in summary.notes)


def test_a_partial_run_of_layouts_is_taken_when_asked_for(place: Place, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "part", [sample("a.png", _small_layout(0))], committed=False)
    inputs = {"checkpoint": [place.model], "layouts": [run.path]}
    job = Job("generate", config(**QUICK), tmp_path / "out", inputs, allow_partial=True)
    assert run_stage(job).counts["samples"] == 1


def test_classes_meet_by_alias_and_labels_keep_their_own_name(
    generate: Generate, tmp_path: Path
) -> None:
    """`airplane` in the data is the model's `plane`: the condition is equal, the label is not."""
    table = ClassTable.of("airplane")
    mine = layout((instance("airplane", 16, 16, 14, 8, size=CANVAS),), CANVAS)
    theirs = layout((instance("plane", 16, 16, 14, 8, size=CANVAS),), CANVAS)
    first = sample_run(tmp_path / "a", [sample("a.png", mine)], classes=table)
    second = sample_run(tmp_path / "b", [sample("a.png", theirs)])
    (one,) = _records(generate("one", inputs={"layouts": [first.path]}))
    (two,) = _records(generate("two", inputs={"layouts": [second.path]}))
    assert (one.layout.instances[0].label, one.prompt) == ("airplane", two.prompt)
    assert _pixels(tmp_path / "one", one).tolist() == _pixels(tmp_path / "two", two).tolist()


def _pixels(out: Path, made: Sample) -> np.ndarray:
    return np.asarray(open_samples(out).read_image(made)).astype(int)


def test_a_class_that_the_model_lacks_is_a_failure_row(generate: Generate, tmp_path: Path) -> None:
    """Catches an object that is asked for in the label and never painted."""
    table = ClassTable.of("plane", "windmill")
    good = layout((instance("plane", size=CANVAS, cx=12, cy=12, length=12, across=8),), CANVAS)
    bad = layout((instance("windmill", size=CANVAS, cx=12, cy=12, length=12, across=8),), CANVAS)
    run = sample_run(
        tmp_path / "mixed", [sample("a.png", good), sample("b.png", bad)], classes=table
    )
    summary = generate(
        "out", inputs={"layouts": [run.path]}, **_keys(execution__max_failure_rate=0.9)
    )
    (failure,) = read_failures(Path(summary.out))
    assert "windmill" in failure.message and summary.counts["samples"] == 1
    with pytest.raises(DataError, match="the model knows plane"):
        known_classes(ClassTable.of("windmill"), CLASSES)


# ---------------------------------------------------------------- pool, quotas, counts


def test_a_quota_takes_items_from_the_one_stream(generate: Generate) -> None:
    """Catches quotas that change item k, and a wanted count that is not reached."""
    quota = generate("quota", "pool", **_keys(generate__per_class={"ship": 5, "plane": 3}))
    made = _records(quota)
    assert quota.tables["objects"]["ship"] >= 5
    assert quota.tables["objects"]["plane"] >= 3
    numbers = [int(s.id.rpartition("-")[2]) for s in made]
    assert numbers == sorted(set(numbers))
    for got, number in zip(made, numbers, strict=True):
        assert got.provenance.seed == item_seed(0, "generate", str(number))


def test_a_quota_that_the_layouts_cannot_meet_is_said(generate: Generate) -> None:
    summary = generate("out", "layouts", **_keys(generate__per_class={"ship": 500}))
    assert summary.counts["samples"] == 6
    assert any("ship 494" in note for note in summary.notes)


def test_an_empty_share_of_one_leaves_stuff_alone(generate: Generate) -> None:
    for source in ("pool", "layouts"):
        summary = generate(source, source, **_keys(generate__empty=1.0, generate__count=3))
        labels = {i.label for s in _records(summary) for i in s.layout.instances}
        assert labels <= {"water"}
        assert summary.counts["empty"] == 3


def test_more_items_than_the_layouts_give_is_a_usage_error(generate: Generate) -> None:
    with pytest.raises(UsageError, match="--per-layout"):
        generate("out", "layouts", **_keys(generate__count=7))


# ---------------------------------------------------------------- same everywhere

VARIANTS = {
    "one": {"execution.batch_size": 1, "execution.shard_size": 7},
    "four": {"execution.batch_size": 4, "execution.shard_size": 3},
    "sixteen": {"execution.batch_size": 16, "execution.shard_size": 64},
}


def test_batches_and_shards_change_no_label_seed_or_noise(
    generate: Generate, tmp_path: Path
) -> None:
    """Labels and seeds are equal bit for bit, pixels within one grey level."""
    runs = {}
    for name, keys in VARIANTS.items():
        runs[name] = _records(generate(name, "pool", **{**keys, "generate.count": 7}))
    first = runs["one"]
    for name, made in runs.items():
        assert [_unshared(s) for s in made] == [_unshared(s) for s in first]
        for a, b in zip(first, made, strict=True):
            difference = abs(_pixels(tmp_path / "one", a) - _pixels(tmp_path / name, b))
            assert difference.max() <= 1, name


def _unshared(made: Sample) -> Sample:
    """Without what names the shard's folder or hashes pixels."""
    return replace(made, image=None, sha256=None)


def test_the_same_request_twice_gives_the_same_bytes(generate: Generate, tmp_path: Path) -> None:
    """Catches a clock, a path or an unseeded draw in parts, pictures or manifest."""
    keys = _keys(generate__count=5, generate__save_conditions=True, execution__shard_size=2)
    generate("a", "pool", **keys)
    generate("b", "pool", **keys)
    assert data_of(tmp_path / "a") == data_of(tmp_path / "b")


def test_noise_of_a_camera_is_the_items_own(generate: Generate, tmp_path: Path) -> None:
    """Other batches, the same noise; and under it the very images that come without."""
    keys = {"generate.count": 5, "generate.sensor_noise": 60.0, "execution.batch_size": 5}
    plain = _records(generate("plain", "pool", **{**keys, "generate.sensor_noise": 0.0}))
    one = _records(generate("one", "pool", **keys))
    other = _records(generate("other", "pool", **{**keys, "execution.batch_size": 2}))
    assert [s.attributes for s in plain] == [{}] * 5
    assert [s.attributes for s in one] == [{"sensor_noise": "60.00"}] * 5
    added = []
    for a, b, c in zip(plain, one, other, strict=True):
        pixels = _pixels(tmp_path / "one", b)
        assert abs(pixels - _pixels(tmp_path / "other", c)).max() <= 3
        added.append(pixels - _pixels(tmp_path / "plain", a))
        assert added[-1].std() > 5
    assert (added[0] != added[1]).any()


def test_noise_in_the_steps_is_the_items_own(generate: Generate, tmp_path: Path) -> None:
    """As a tuned checkpoint is painted. Catches noise of a batch, which a resume would change."""
    keys = {"generate.count": 5, "execution.batch_size": 5}
    noisy = {**keys, "generate.eta": 1.0, "generate.window": (0.0, 0.2)}
    plain = _records(generate("plain", "pool", **keys))
    one = _records(generate("one", "pool", **noisy))
    other = _records(generate("other", "pool", **{**noisy, "execution.batch_size": 2}))
    for a, b, c in zip(plain, one, other, strict=True):
        pixels = _pixels(tmp_path / "one", b)
        assert abs(pixels - _pixels(tmp_path / "other", c)).max() <= 1
        assert abs(pixels - _pixels(tmp_path / "plain", a)).max() > 1


def test_noise_as_in_training_needs_a_card_that_says_it(
    generate: Generate, place: Place, tmp_path: Path
) -> None:
    keys = {"generate.count": 2, "generate.sensor_noise": "auto"}
    with pytest.raises(UsageError, match="how much noise"):
        generate("refused", "pool", **keys)
    told = tmp_path / "told"
    shutil.copytree(place.model, told)
    card = json.loads((told / "rsgen.json").read_text(encoding="utf-8"))
    levels, channels = [5.0] * 7, [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]]
    card["sensor_noise"] = {"levels": levels, "channels": channels}
    (told / "rsgen.json").write_text(json.dumps(card), encoding="utf-8")
    made = _records(generate("made", "pool", inputs={"checkpoint": [told]}, **keys))
    assert [s.attributes for s in made] == [{"sensor_noise": "5.00"}] * 2


def test_a_run_that_was_extended_equals_one_made_at_once(
    generate: Generate, tmp_path: Path
) -> None:
    """Count 3, then 7, equals count 7 but for where the shards were cut."""
    keys = _keys(execution__shard_size=3, execution__batch_size=1)
    generate("grown", "pool", **keys, **_keys(generate__count=3))
    grown = generate("grown", "pool", **keys, **_keys(generate__count=7))
    whole = generate("whole", "pool", **keys, **_keys(generate__count=7))
    assert _records(grown) == _records(whole)
    again = generate("grown", "pool", **keys, **_keys(generate__count=7))
    assert again.status == "no-op"


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(generate: Generate, tmp_path: Path) -> None:
    """Catches a stage that needs more than run.json to be rebuilt in another process."""
    keys = _keys(generate__count=6, execution__shard_size=3)
    generate("one", "pool", **keys)
    generate("two", "pool", **keys, **_keys(execution__workers=2))
    assert data_of(tmp_path / "one") == data_of(tmp_path / "two")


# ---------------------------------------------------------------- what lies in the folder


def test_a_picture_carries_its_provenance_and_its_condition(
    generate: Generate, tmp_path: Path
) -> None:
    """Catches a picture that cannot be told from a real one, or remade."""
    summary = generate("out", "pool", **_keys(generate__count=2, generate__save_conditions=True))
    out = Path(summary.out)
    for made in _records(summary):
        text = png_text(open_samples(out).image_path(made))
        facts = json.loads(text["rsgen"])
        assert facts["id"] == made.id and facts["seed"] == made.provenance.seed
        assert facts["model"] == made.provenance.model
        assert text["Description"] == made.prompt
        assert (out / "conditions" / "00000" / f"{made.id}.png").is_file()
    assert (out / "contact_sheet.png").is_file()


def test_a_word_outside_the_vocabulary_is_named_once(place: Place, tmp_path: Path) -> None:
    """Catches words that are dropped in silence by a closed vocabulary."""
    heard = _Listener()
    job = Job(
        "generate",
        config(**{**QUICK, "generate.prompt": "A gloomy image of {classes}", "generate.count": 4}),
        tmp_path / "out",
        {"checkpoint": [place.model], "pool": [place.pool]},
        heard,
    )
    summary = run_stage(job)
    assert sum("gloomy" in text for text in heard.notes) == 1
    assert sum("gloomy" in note for note in summary.notes) == 1


class _Listener(NullReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str, level: str = "info") -> None:
        self.notes.append(text)


def test_joined_guidance_branches_are_said(generate: Generate) -> None:
    """Prompt and negative prompt are equal: half the calls, and the summary says so."""
    prompt = "A satellite image"
    keys = _keys(
        generate__prompt=prompt,
        generate__negative_prompt=prompt,
        generate__layout_guidance=1.0,
        generate__count=2,
    )
    summary = generate("out", "pool", **keys)
    assert summary.counts["network calls"] == summary.counts["network calls saved"] == 4
    assert any("computed once: 4 network calls instead of 8" in n for n in summary.notes)


# ---------------------------------------------------------------- checkpoints


def test_a_bare_controlnet_runs_on_a_base_with_stated_classes(
    generate: Generate, place: Place, tmp_path: Path
) -> None:
    """A public ControlNet has no rsgen.json: encoding and classes must be said, then it runs."""
    bare = tmp_path / "bare"
    shutil.copytree(place.model / "controlnet", bare)
    inputs = {"checkpoint": [bare], "layouts": [place.real]}
    with pytest.raises(UsageError, match="--base"):
        generate("out", inputs=inputs)
    base = _keys(generate__base=str(place.model))
    with pytest.raises(UsageError, match=r"generate\.condition"):
        generate("out", inputs=inputs, **base)
    names = tmp_path / "classes.txt"
    names.write_text("plane\nship\nstorage-tank\nwater\n")
    said = {**base, **_keys(generate__classes=str(names), generate__condition="classes")}
    summary = generate("out", inputs=inputs, **said)
    assert summary.counts["samples"] == 6
    wrong = {**said, **_keys(generate__condition="index")}
    with pytest.raises(UsageError, match="3 channels, the ControlNet expects 35"):
        generate("wrong", inputs=inputs, **wrong)


@pytest.mark.parametrize(
    ("inputs", "keys", "message"),
    [
        pytest.param({}, {}, "--pool", id="no layouts at all"),
        pytest.param({"pool": "pool"}, {"generate.size": 40}, "multiple of 16", id="odd size"),
        pytest.param(
            {"pool": "pool"}, {"generate.per_class": {"zebra": 3}}, "zebra", id="unknown quota"
        ),
        pytest.param({"pool": "pool"}, {"generate.templates": ["x"]}, "template", id="template"),
        pytest.param(
            {"pool": "pool"},
            {"generate.eta": 1.0, "generate.scheduler": "unipc"},
            "generate.eta 1: the steps of unipc",
            id="eta of another scheduler",
        ),
        pytest.param(
            {"pool": "pool"}, {"generate.window": (0.5, 0.2)}, "generate.window", id="window"
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_it_starts(
    inputs: dict[str, str],
    keys: dict[str, Any],
    message: str,
    generate: Generate,
    place: Place,
    tmp_path: Path,
) -> None:
    paths = {name: [getattr(place, kind)] for name, kind in inputs.items()}
    with pytest.raises((UsageError, DataError), match=message) as caught:
        generate("out", inputs=paths, **keys)
    assert caught.value.exit_code in (2, 3)
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_model_by_name_is_an_input_without_a_folder(tmp_path: Path) -> None:
    """`generate tiny`: catches a name looked up as a path."""
    assert input_ref("checkpoint", Path("tiny")).path == "tiny"
    assert input_ref("checkpoint", Path("hub:org/name")).path == "hub:org/name"
    with pytest.raises(DataError):
        input_ref("checkpoint", tmp_path / "tiny")


# ---------------------------------------------------------------- when things go wrong


def test_numbers_that_are_not_finite_are_failures(
    generate: Generate, place: Place, tmp_path: Path
) -> None:
    """Catches black pictures with labels from a model whose training went wrong."""
    from rsgen.models.base import load_model

    model = load_model(place.model)
    with torch.no_grad():
        model.vae.decoder.conv_out.bias.fill_(float("nan"))  # type: ignore[attr-defined]
    model.save(tmp_path / "nan")
    inputs = {"checkpoint": [tmp_path / "nan"], "pool": [place.pool]}
    with pytest.raises(TooManyFailures):
        generate("out", inputs=inputs, **_keys(generate__count=2))
    assert {f.error for f in read_failures(tmp_path / "out")} == {"NotFinite"}


def _small_memory(monkeypatch: pytest.MonkeyPatch, limit: Callable[[], int]) -> list[int]:
    """The painter raises what a full device raises above `limit` samples a batch."""
    seen: list[int] = []
    real = Painter.latents

    def latents(self: Painter, layouts: Sequence[Any], *rest: Any) -> Any:
        seen.append(len(layouts))
        if len(layouts) > limit():
            raise OutOfMemory("out of memory: the device is full")
        return real(self, layouts, *rest)

    monkeypatch.setattr(Painter, "latents", latents)
    return seen


def test_out_of_memory_halves_the_batch_of_the_whole_run(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a run whose first batches have another size than its last."""
    seen = _small_memory(monkeypatch, lambda: 2)
    keys = _keys(generate__count=8, execution__batch_size=8, execution__shard_size=8)
    generate("out", "pool", **keys)
    assert seen == [8, 4, 2, 2, 2, 2]
    plan = RunInfo.load(tmp_path / "out").plan
    assert plan is not None and plan.batch_size == 2


def test_out_of_memory_after_the_first_part_names_a_new_folder(
    generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halving then would mix batch sizes within one run."""
    limits = iter([4, 0])
    _small_memory(monkeypatch, lambda: next(limits))
    keys = _keys(generate__count=8, execution__batch_size=4, execution__shard_size=4)
    with pytest.raises(SetupError, match="--out") as caught:
        generate("out", "pool", **keys)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory"), True, id="device"),
        pytest.param(
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), True, id="cpu"
        ),
        pytest.param(MemoryError(), True, id="python"),
        pytest.param(RuntimeError("mat1 and mat2 must have the same dtype"), False, id="bug"),
    ],
)
def test_only_lack_of_memory_counts_as_such(error: Exception, is_memory: bool) -> None:
    assert (memory_error(error) is not None) == is_memory
