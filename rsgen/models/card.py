"""rsgen.json: what is written beside the weights of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rsgen.condition import ConditionEncoding, EncodingName
from rsgen.errors import DataError
from rsgen.records import ClassTable
from rsgen.sensor import SensorNoise

__all__ = ["ModelCard", "read_card"]

CARD_FILE = "rsgen.json"
CARD_SCHEMA = 1


@dataclass(frozen=True)
class ModelCard:
    """rsgen.json: how the layouts of a checkpoint are encoded, and what it learned from.

    `slots` maps class names to their codes in the `classes` encoding (empty for the others);
    `gsd_range_m` is (least, most) metres a pixel of the training images, or None. `prompt` is
    the template it was trained with, "" without captions, None where that is not known.
    `sensor_noise`: of the training images, which a decoder does not paint. `published`: not
    read from a file, but what is known of a checkpoint that other programs made.
    """

    condition: str
    classes: ClassTable
    slots: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    image_size: int = 512
    gsd_range_m: tuple[float, float] | None = None
    fingerprint: str | None = None
    base: str | None = None
    licence: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    sensor_noise: SensorNoise | None = None
    published: bool = False

    @property
    def knows_empty_layouts(self) -> bool:
        """Whether it has seen empty conditions in training, so that it can paint without one."""
        if self.published:  # diffusers' trainer has no dropout of conditions
            return False
        return float(self.training.get("hint_dropout", 1.0)) > 0

    def encoding(self) -> ConditionEncoding:
        """How a layout becomes the control tensor of this model."""
        return ConditionEncoding(cast(EncodingName, self.condition), self.slots)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": CARD_SCHEMA,
            "condition": self.condition,
            "classes": self.classes.to_json(),
            "slots": {name: list(code) for name, code in self.slots.items()},
            "image_size": self.image_size,
            "gsd_range_m": None if self.gsd_range_m is None else list(self.gsd_range_m),
            "fingerprint": self.fingerprint,
            "base": self.base,
            "licence": list(self.licence),
            "training": dict(self.training),
            "prompt": self.prompt,
            "sensor_noise": None if self.sensor_noise is None else self.sensor_noise.to_json(),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ModelCard:
        span, noise = row.get("gsd_range_m"), row.get("sensor_noise")
        return cls(
            condition=str(row["condition"]),
            classes=ClassTable.from_json(row["classes"]),
            slots={
                str(k): (v,) if isinstance(v, int) else tuple(int(s) for s in v)
                for k, v in row.get("slots", {}).items()
            },
            image_size=int(row["image_size"]),
            gsd_range_m=None if span is None else (float(span[0]), float(span[1])),
            fingerprint=row.get("fingerprint"),
            base=row.get("base"),
            licence=tuple(row.get("licence", ())),
            training=dict(row.get("training", {})),
            prompt=row.get("prompt"),
            sensor_noise=None if noise is None else SensorNoise.from_json(noise),
        )

    def write(self, folder: Path) -> None:
        text = json.dumps(self.to_json(), indent=2, sort_keys=True, ensure_ascii=False)
        (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def read_card(folder: Path) -> ModelCard | None:
    """The card beside a model; None where there is none (a public checkpoint).

    Raises:
        DataError: a card that cannot be read.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        if row.get("schema") != CARD_SCHEMA:
            raise DataError(
                f"{path}: schema {row.get('schema')!r}, this version reads {CARD_SCHEMA}",
                hint="train the checkpoint again, or use the version of rsgen that made it",
            )
        return ModelCard.from_json(row)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a model card ({error!r})", hint="restore the file") from error
