"""The `scenes` command: procedural samples, one item a scene."""

from __future__ import annotations

from rsgen.errors import UsageError
from rsgen.execution import Control, Finish, FinishedRun, Shard, ShardOutput
from rsgen.images import Pixels, write_png
from rsgen.pictures import contact_sheet, draw_layout
from rsgen.prompts import make_prompt
from rsgen.records import ClassTable, Provenance, Sample
from rsgen.request import RunInfo, item_seed
from rsgen.scenes import SCENE_CLASSES, SCENE_TYPES, render_scene

__all__ = ["ScenesStage"]

CONTACT_SHEET_SCENES = 48


class ScenesStage:
    """Item k is drawn from (seed, k) alone, so a larger count only adds scenes."""

    shard_size = 50

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._settings = info.config.scenes
        unknown = sorted(set(self._settings.types) - set(SCENE_TYPES))
        if unknown:
            raise UsageError(
                f"scenes.types: unknown {', '.join(unknown)}; known: {', '.join(SCENE_TYPES)}"
            )
        self._types = self._settings.types or SCENE_TYPES

    def count(self) -> int:
        return self._settings.count

    def classes(self) -> ClassTable:
        return SCENE_CLASSES

    def open(self) -> None:
        return

    def process(self, shard: Shard, control: Control) -> ShardOutput:
        samples = []
        for index in range(shard.start, shard.stop):
            samples.append(self._sample(index, shard))
            control.advance()
            control.check()
        return ShardOutput(samples, counts={"instances": sum(map(_things, samples))})

    def _sample(self, index: int, shard: Shard) -> Sample:
        settings = self._settings
        name = f"scene-{index:06d}"
        seed = item_seed(self._info.seed, "scenes", str(index))
        image, layout = render_scene(
            seed,
            settings.size,
            scene=self._types[index % len(self._types)],
            gsd_m=settings.gsd_m,
            style=settings.style,
        )
        return Sample(
            id=f"{self._info.fingerprint8}-{index:06d}",
            layout=layout,
            image=f"{shard.images_prefix}/{name}.png",
            sha256=write_png(shard.images_dir / f"{name}.png", image),
            prompt=make_prompt(layout, SCENE_CLASSES),
            split=_split(self._info.seed, index) if settings.held_out else "train",
            provenance=Provenance("real", run=self._info.fingerprint, seed=seed),
        )

    def finish(self, run: FinishedRun) -> Finish:
        tiles: list[Pixels] = []
        titles: list[str] = []
        table: dict[str, float | int | str] = {}
        for sample in run.samples():
            for instance in sample.layout.instances:
                if not SCENE_CLASSES.is_stuff(instance.label):
                    table[instance.label] = int(table.get(instance.label, 0)) + 1
            if len(tiles) < CONTACT_SHEET_SCENES:
                tiles.append(draw_layout(run.read_image(sample), sample.layout, labels=False))
                titles.append(f"{sample.layout.scene} {sample.layout.gsd_m or 0:.2f} m")
        sheet = contact_sheet(tiles, run.path / "contact_sheet.png", titles=titles)
        return Finish({"contact sheet": sheet}, {"objects": dict(sorted(table.items()))})


def _things(sample: Sample) -> int:
    return sum(not SCENE_CLASSES.is_stuff(i.label) for i in sample.layout.instances)


def _split(seed: int, index: int) -> str:
    """80/10/10 by item, so that a larger count leaves earlier scenes where they were."""
    return {0: "val", 1: "test"}.get(item_seed(seed, "split", str(index)) % 10, "train")
