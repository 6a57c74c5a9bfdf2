"""Sample runs that are made of other ones: held sets, boxes without masks, windows, other labels.

What the evidence tables measure on. A derived run keeps its pixels where they are (its image
roots are the runs that it was made of), except for windows, which are new pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from cells import call

from rsgen.augment import move_layout
from rsgen.config import load_config
from rsgen.errors import UsageError
from rsgen.geometry import similarity
from rsgen.images import sha256_file, write_png
from rsgen.records import ClassTable, Layout, Sample
from rsgen.request import Plan, RunInfo, item_seed, request_fingerprint, request_keys
from rsgen.runs import commit, run_json_bytes
from rsgen.store import SampleRun, is_committed, open_samples, part_counts, part_path, write_part

__all__ = [
    "bare",
    "held",
    "judges",
    "labelled",
    "scenes",
    "test_and_train",
    "windows",
    "with_layouts",
    "write_run",
]

SHARD = 50


def scenes(work: Path, seed: int, count: int, size: int = 128) -> Path:
    """Procedural scenes."""
    settings = (f"seed={seed}", f"scenes.count={count}", f"scenes.size={size}")
    return call("scenes", work / f"scenes-{seed}-{count}-{size}", {}, settings)


def labelled(work: Path, name: str, given: Path) -> Path:
    """A sample run: the given one, or the masks extracted from a labelled folder."""
    if is_committed(given):
        return given
    return call("extract-masks", work / f"masks-{name}", {"dataset": given})


def judges(
    work: Path,
    name: str,
    given: Path | None,
    run: Path,
    steps: int,
    threads: int,
    role: Literal["reward", "evaluation"] = "evaluation",
) -> Path:
    """A judge for a set: GIVEN/NAME, or one trained here on the run's train split.

    role: judge B measures ("evaluation"), judge A rewards and filters ("reward").

    Raises:
        UsageError: judges were given, but none of that name and role that is finished.
    """
    if given is not None:
        folder = given / name / ("judge_b" if role == "evaluation" else "judge_a")
        if not is_committed(given / name) or not folder.is_dir():
            raise UsageError(
                f"{folder}: no finished train-judge OUT with that judge",
                hint="wait for it, or leave --judges out to train one here",
            )
        return given / name
    settings = (
        f"train_judge.max_steps={steps}",
        f"train_judge.judges={role}",
        "execution.dtype=bf16",
        f"execution.threads={threads}",
    )
    kind = "judges" if role == "evaluation" else "judge-a"
    return call("train-judge", work / f"{kind}-{name}-{steps}", {"run": run}, settings)


def test_and_train(out: Path, test: Path, train: Path) -> Path:
    """All samples of one run as the test split, beside the train split of another."""
    asked, learned = open_samples(test), open_samples(train)

    def samples() -> Iterable[Sample]:
        yield from (replace(s, split="test") for s in asked)
        yield from (s for s in learned if s.split == "train")

    return write_run(out, samples, asked.classes, [asked, learned], "test and train")


def held(run: Path) -> int:
    """How many samples of a run are held for measuring (its test split)."""
    return sum(sample.split == "test" for sample in open_samples(run))


def bare(out: Path, run: Path) -> Path:
    """The same samples with boxes alone: no thing has a mask."""
    source = open_samples(run)
    is_stuff = source.classes.is_stuff

    def without(layout: Layout) -> Layout:
        things = (i if is_stuff(i.label) else replace(i, mask=None) for i in layout.instances)
        return replace(layout, instances=tuple(things))

    return write_run(
        out,
        lambda: (replace(s, layout=without(s.layout)) for s in source),
        source.classes,
        [source],
        "boxes",
    )


def with_layouts(out: Path, generated: Path, layouts: Path) -> Path:
    """Generated images with the layouts of the samples that they were made for."""
    made, asked = open_samples(generated), {s.id: s.layout for s in open_samples(layouts)}
    return write_run(
        out,
        lambda: (replace(s, layout=asked[s.provenance.sources[0]]) for s in made),
        made.classes,
        [made],
        "layouts",
    )


def windows(out: Path, run: Path, size: int, most: Mapping[str, int], seed: int = 0) -> Path:
    """Square parts of large images at their own scale, `most` an image by split.

    They do not overlap; only parts that hold the centre of an object are taken.
    """
    source = open_samples(run)

    def samples() -> Iterable[Sample]:
        for sample in source:
            count = most.get(sample.split or "", 0)
            if sample.image is None or not count:
                continue
            image = source.read_image(sample)
            rng = np.random.default_rng(item_seed(seed, "windows", sample.id))
            for x, y in _places(sample.layout, size, rng)[:count]:
                layout = move_layout(sample.layout, similarity(shift=(-x, -y)), size, size)
                name = f"{sample.id}#{x},{y}"
                path = f"images/{name.replace('/', '_').replace('#', '_')}.png"
                digest = write_png(out / path, image[y : y + size, x : x + size])
                provenance = replace(sample.provenance, parent=sample.parent)
                yield replace(
                    sample, id=name, image=path, sha256=digest, layout=layout, provenance=provenance
                )

    return write_run(out, samples, source.classes, [source], f"windows {size} {dict(most)} {seed}")


def _places(layout: Layout, size: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Corners of the cells of a grid that hold an object's centre, in random order."""
    columns, rows = layout.width // size, layout.height // size
    left = int(rng.integers(layout.width - columns * size + 1))
    top = int(rng.integers(layout.height - rows * size + 1))
    found = set()
    for instance in layout.instances:
        box = instance.bounds()
        if box is None:
            continue
        column, row = (int((c - s) // size) for c, s in zip(box.center, (left, top), strict=True))
        if 0 <= column < columns and 0 <= row < rows:
            found.add((left + column * size, top + row * size))
    order = sorted(found)
    return [order[k] for k in rng.permutation(len(order)).tolist()]


def write_run(
    out: Path,
    samples: Callable[[], Iterable[Sample]],
    classes: ClassTable,
    sources: Sequence[SampleRun],
    how: str,
) -> Path:
    """A committed run of these samples; nothing happens where it is there."""
    if is_committed(out):
        return out
    out.mkdir(parents=True, exist_ok=True)
    rows = list(samples())
    config, options = load_config(), {"of": [s.fingerprint for s in sources], "how": how}
    plan = Plan(0, (), 1, "fp32", "cpu", 1).extended(len(rows), SHARD)
    info = RunInfo(
        "extract-masks",
        config,
        out,
        request_fingerprint(request_keys("extract-masks", config, (), {}, options)),
        (),
        classes,
        tuple(str(root.resolve()) for source in sources for root in source.image_roots),
        {},
        plan,
        options,
    )
    (out / "run.json").write_bytes(run_json_bytes(info))
    parts = []
    for index, (start, stop) in enumerate(plan.shards):
        write_part(out, index, rows[start:stop], [], {})
        path = part_path(out, index)
        parts.append({"name": path.name, "rows": part_counts(path)[0], "sha256": sha256_file(path)})
    commit(info, parts=parts, counts={"samples": len(rows)}, artifacts={}, exit_code=0)
    return out
