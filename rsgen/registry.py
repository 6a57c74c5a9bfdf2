"""Names in YAML and on the command line -> code, loaded only when asked for.

A new format, backend, scorer or stage is one line here; third parties add theirs by the
entry-point group `rsgen.<group>` (rsgen.mask_backends, rsgen.scorers, rsgen.formats, ...).
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from rsgen.errors import SetupError, UsageError

__all__ = ["Use", "names", "resolve"]

BUILT_IN: dict[str, dict[str, str]] = {
    "stages": {
        "scenes": "rsgen.scenes.stage:ScenesStage",
        "extract-masks": "rsgen.extraction.stage:ExtractMasksStage",
        "generate": "rsgen.generate:GenerateStage",
        "filter": "rsgen.filter:FilterStage",
    },
    "programs": {
        "build-mask-pool": "rsgen.pool:build_mask_pool",
        "train": "rsgen.train:train",
        "train-judge": "rsgen.train_judge:train_judge",
        "rl-tune": "rsgen.rl_tune:rl_tune",
        "export": "rsgen.export:export",
        "evaluate": "rsgen.evaluate:evaluate",
    },
    "formats": {
        "coco": "rsgen.formats.coco:FORMAT",
        "dota": "rsgen.formats.dota:FORMAT",
        "dota-annfiles": "rsgen.formats.dota:ANNFILES",
        "yolo": "rsgen.formats.yolo:YOLO",
        "yolo-obb": "rsgen.formats.yolo:YOLO_OBB",
        "yolo-seg": "rsgen.formats.yolo:YOLO_SEG",
        "jsonl": "rsgen.formats.jsonl:FORMAT",
        "geotiff": "rsgen.formats.geotiff:FORMAT",
        "masks": "rsgen.formats.masks:FORMAT",
        "earthsynth-180k": "rsgen.formats.earthsynth:FORMAT",
        "imagefolder": "rsgen.formats.imagefolder:FORMAT",
        "webdataset": "rsgen.formats.webdataset:FORMAT",
        "class-list": "rsgen.formats.class_list:FORMAT",
        "voc": "rsgen.formats.voc:FORMAT",
        "dior-r": "rsgen.formats.dior_r:FORMAT",
        "rolabelimg": "rsgen.formats.rolabelimg:FORMAT",
        "hrsc2016": "rsgen.formats.hrsc2016:FORMAT",
        "labelme": "rsgen.formats.labelme:FORMAT",
    },
    "mask_backends": {
        "polygon": "rsgen.extraction.polygon:PolygonBackend",
        "box": "rsgen.extraction.box:BoxBackend",
        "classical": "rsgen.extraction.classical:ClassicalBackend",
        "sam": "rsgen.extraction.sam:SamBackend",
        "text-prompted": "rsgen.extraction.segmenters:TextPromptedBackend",
        "worker": "rsgen.extraction.text_prompted:WorkerBackend",
    },
    "scorers": {
        "integrity": "rsgen.scorers.pixels:Integrity",
        "sharpness": "rsgen.scorers.pixels:Sharpness",
        "focus": "rsgen.scorers.pixels:Focus",
        "contrast": "rsgen.scorers.pixels:Contrast",
        "label-geometry": "rsgen.scorers.geometry:LabelGeometry",
        "aspect": "rsgen.scorers.layouts:Aspect",
        "mask-parts": "rsgen.scorers.layouts:MaskParts",
        "object-size": "rsgen.scorers.layouts:ObjectSize",
        "object-count": "rsgen.scorers.layouts:ObjectCount",
        "foreground": "rsgen.scorers.layouts:Foreground",
        "novelty-hash": "rsgen.scorers.novelty:HashNovelty",
        "novelty-latent": "rsgen.scorers.novelty:LatentNovelty",
        "novelty": "rsgen.scorers.novelty:Novelty",
        "likeness": "rsgen.scorers.novelty:Likeness",
        "judge": "rsgen.scorers.detection:JudgeObjects",
        "judge-image": "rsgen.scorers.detection:JudgeImage",
        "class-presence": "rsgen.scorers.detection:ClassPresence",
        "extra-objects": "rsgen.scorers.detection:ExtraObjects",
        "difficulty": "rsgen.scorers.detection:Difficulty",
        "clip": "rsgen.scorers.clip:ClipImage",
        "clip-objects": "rsgen.scorers.clip:ClipObjects",
        "remask": "rsgen.scorers.remask:Remask",
        "stuff": "rsgen.scorers.ground:Stuff",
        "stuff-areas": "rsgen.scorers.ground:StuffAreas",
    },
    "rewards": {
        "detector": "rsgen.rewards.detector:DetectorReward",
        "distribution": "rsgen.rewards.distribution:Distribution",
        "filter": "rsgen.rewards.margin:FilterMargin",
        "pixels": "rsgen.rewards.pixels:PixelStatistics",
    },
    "metrics": {
        "layout": "rsgen.evaluation.layout:CELL",
        "fidelity": "rsgen.evaluation.fidelity:CELL",
        "classification": "rsgen.evaluation.classification:CELL",
        "shape": "rsgen.evaluation.shape:CELL",
        "suspicion": "rsgen.evaluation.suspicion:CELL",
        "copies": "rsgen.evaluation.copies:CELL",
        "failures": "rsgen.evaluation.failures:CELL",
        "downstream": "rsgen.evaluation.downstream:CELL",
    },
    "models": {
        "stable-diffusion": "rsgen.models.stable_diffusion:StableDiffusion",
    },
}

# Of formats, so that help can tell without loading them.
ONE_WAY: dict[str, frozenset[str]] = {
    "read": frozenset({"hrsc2016", "rolabelimg"}),
    "written": frozenset({"webdataset", "class-list"}),
}
Use = Literal["read", "written"]

EXTRAS: dict[str, str] = {"pyogrio": "vector", "ray": "ray"}


def _third_party(group: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=f"rsgen.{group}")}


def names(group: str, use: Use | None = None) -> list[str]:
    """Every name of a group, sorted; with `use` only formats that can be read, or written."""
    found = {*BUILT_IN[group], *_third_party(group)}
    if use is not None:
        found -= ONE_WAY["written" if use == "read" else "read"]
    return sorted(found)


def resolve(group: str, name: str, use: Use | None = None) -> Any:
    """The object that a name stands for; `use` is for what a message lists as known.

    Raises:
        UsageError: the name is unknown (with the nearest known one).
        SetupError: its package is not installed (with the extra to install).
    """
    ours = BUILT_IN[group].get(name)
    target = ours or _third_party(group).get(name)
    if target is None:
        known = names(group, use)
        near = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            f"unknown name {name!r} in {group}; known: {', '.join(known)}",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "rsgen":
            raise
        extra = EXTRAS.get(error.name or "")
        wanted = f"rsgen[{extra}]" if extra else str(error.name)
        raise SetupError(
            f"{name!r} needs the package {error.name!r}, which is not installed",
            hint=f"pip install '{wanted}'",
        ) from error
    if ours is None and not hasattr(module, attribute):
        raise SetupError(
            f"the plug-in {name!r} of {group} names {target}, which has no {attribute!r}",
            hint="update or remove the package that provides it",
        )
    return getattr(module, attribute)
