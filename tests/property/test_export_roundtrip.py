"""Any layout that a plan may give is written in every format and read back as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsgen.export import export
from rsgen.records import Instance
from rsgen.runs import Job
from tests.build import CLASSES, config, instance, layout, sample, sample_run, water

LABELS = [c.name for c in CLASSES.classes if c.kind == "thing"]


@st.composite
def things(draw: st.DrawFn) -> Instance:
    """An oriented object anywhere from well inside to half over the border."""
    number = st.floats(0, 1)
    length = 6 + 24 * draw(number)
    return instance(
        draw(st.sampled_from(LABELS)),
        round(64 * draw(number), 3),
        round(64 * draw(number), 3),
        length,
        length * (0.2 + 0.8 * draw(number)),
        6.28 * draw(number) - 3.14,
        difficult=draw(st.booleans()),
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(things(), max_size=6), min_size=1, max_size=4))
def test_every_format_gives_back_what_was_written(layouts: list[list[Instance]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples = [
            sample(f"s{k}.png", of=layout((water(), *found))) for k, found in enumerate(layouts)
        ]
        run = sample_run(Path(folder) / "run", samples)
        names = [
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
        ]
        # export compares each format with the samples and raises where they differ
        summary = export(
            Job("export", config(**{"export.format": names}), Path(folder) / "set",
                {"run": [run.path]})
        )  # fmt: skip
        assert summary.counts["images"] == len(samples)
        assert summary.counts["objects"] == sum(len(found) for found in layouts)
