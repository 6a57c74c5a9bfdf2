"""Backend `sam`: masks from labels' boxes by SAM or SAM 2 of transformers.

Objects are looked at in windows in which they are large (`crops`); a window is encoded once
and its boxes are decoded in batches. `choose` says how the best of SAM's three masks is found
and scored. Where none is good, `classical` makes the mask (and falls back to a typical
outline itself); the reason is kept with the instance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsgen.errors import SetupError, UsageError
from rsgen.extraction.backends import BackendSetup
from rsgen.extraction.base import Pixels, resolve_contested
from rsgen.extraction.choose import Choice, choose
from rsgen.extraction.classical import ClassicalBackend
from rsgen.extraction.crops import Crop, plan_crops
from rsgen.extraction.patch import Frame, frame_of_label
from rsgen.geometry import bounds
from rsgen.images import sha256_file
from rsgen.models.base import ModelRef, model_folder, model_hash
from rsgen.records import ClassTable, Instance
from rsgen.request import digest
from rsgen.settings import ExtractMasksConfig

if TYPE_CHECKING:
    from rsgen.extraction.grounding import Grounding, Seen
    from rsgen.extraction.sam_network import SamNetwork

__all__ = ["SamBackend", "sam_family", "sam_folder"]

# A SAM 2 checkpoint says sam2_video: its image part is the same model.
FAMILIES = {"sam": "sam", "sam2": "sam2", "sam2_video": "sam2"}
EXAMPLES = "hub:facebook/sam-vit-base or hub:facebook/sam2.1-hiera-tiny"


def sam_folder(model: str) -> Path:
    """The local folder of a SAM or SAM 2 reference.

    Raises:
        UsageError: no such folder, or another kind of model.
        SetupError: out of reach, incomplete, or only pickle weights.
    """
    folder = model_folder(ModelRef.parse(model))
    sam_family(folder)
    return folder


def sam_family(folder: Path) -> str:
    """sam or sam2, from config.json.

    Raises:
        UsageError: another kind of model. SetupError: no readable config.json.
    """
    path = folder / "config.json"
    if (folder / "model_index.json").is_file():
        raise UsageError(
            f"model {folder}: a diffusion pipeline; backend 'sam' runs SAM and SAM 2",
            hint=f"--model {EXAMPLES}, or a folder of one",
        )
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise SetupError(f"{path}: not readable ({error})", hint="download it again") from error
    if kind not in FAMILIES:
        raise UsageError(
            f"model {folder}: its config.json says {kind!r}; backend 'sam' runs "
            f"{', '.join(FAMILIES)}",
            hint=f"--model {EXAMPLES}, or a folder of one",
        )
    return FAMILIES[kind]


class SamBackend:
    """Box-prompted SAM; every thing without a mask gets one, given masks and stuff stay."""

    name = "sam"
    uses_torch = True
    batch_size = 16  # boxes decoded at once
    example_model = "hub:facebook/sam-vit-base"

    def __init__(
        self,
        network: SamNetwork,
        object_px: int,
        batch_size: int = batch_size,
        name: str = name,
        grounding: Grounding | None = None,
    ) -> None:
        """`grounding`: a detector that makes loose labels tight before SAM is prompted."""
        self.name = name
        self._network = network
        self._grounding = grounding
        self._object_px = object_px
        self._batch_size = batch_size
        self._instead = ClassicalBackend()

    @classmethod
    def model_hashes(cls, settings: ExtractMasksConfig) -> dict[str, str]:
        """The weights, and how pixels are prepared for them."""
        folder = sam_folder(settings.model or "")
        files = [folder / f"{kind}_config.json" for kind in ("preprocessor", "processor")]
        prepared = [[p.name, sha256_file(p)] for p in files if p.is_file()]
        return {"sam": digest([model_hash(folder), prepared])}

    @classmethod
    def open(cls, setup: BackendSetup) -> SamBackend:
        """Load the model of the settings.

        Raises:
            UsageError, SetupError: see `sam_folder`; OutOfMemory: it does not fit the device.
        """
        from rsgen.extraction.sam_network import SamNetwork

        folder = sam_folder(setup.settings.model or "")
        network = SamNetwork.load(folder, sam_family(folder), setup.device, setup.dtype)
        return cls(network, setup.settings.object_px, setup.batch_size)

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        """Masks for instances without one; `scores["mask"]` as `choose` defines it."""
        height, width = image.shape[:2]
        made = [i.mask is None and not labels.is_stuff(i.label) for i in known]
        frames = {
            k: found[0]
            for k, instance in enumerate(known)
            if made[k] and (found := frame_of_label(instance, width, height)) is not None
        }
        seen: dict[int, Seen] = {}
        if self._grounding is not None:
            seen = self._grounding.look(image, known, frames, labels)
            known = [_seen(i, seen.get(k)) for k, i in enumerate(known)]
        chosen = self._choices(image, {**frames, **{k: s.frame for k, s in seen.items()}})
        filled = [
            self._filled(image, instance, known, chosen.get(k)) if made[k] else instance
            for k, instance in enumerate(known)
        ]
        return resolve_contested(filled, made, labels)

    def _choices(self, image: Pixels, frames: dict[int, Frame]) -> dict[int, Choice]:
        """The best mask of each label, window by window."""
        height, width = image.shape[:2]
        keys = list(frames)
        boxes = [bounds(frames[k].outline).clip(width, height) for k in keys]
        side = self._network.preprocessing.side
        found: dict[int, Choice] = {}
        for crop in plan_crops(boxes, width, height, side, self._object_px):
            prompts = np.array([(b.x0, b.y0, b.x1, b.y1) for b in (boxes[m] for m in crop.members)])
            labels = [keys[m] for m in crop.members]
            chosen = self._in_crop(image, crop, prompts, [frames[k] for k in labels])
            found.update(zip(labels, chosen, strict=True))
        return found

    def _in_crop(
        self, image: Pixels, crop: Crop, prompts: Any, frames: Sequence[Frame]
    ) -> list[Choice]:
        view = self._network.preprocessing.view(crop)
        embeddings = self._network.encode(image, view)
        corners = view.to_input(prompts)
        chosen = list[Choice]()
        for start in range(0, len(frames), self._batch_size):
            batch = slice(start, start + self._batch_size)
            logits, predicted = self._network.decode(embeddings, corners[batch])
            chosen += [
                choose(three, iou, frame, view)
                for three, iou, frame in zip(logits, predicted, frames[batch], strict=True)
            ]
        return chosen

    def _filled(
        self, image: Pixels, instance: Instance, known: Sequence[Instance], choice: Choice | None
    ) -> Instance:
        """The instance with SAM's mask, or with the classical one and the reason."""
        if choice is not None and choice.doubt is None:
            scores = {**instance.scores, "mask": round(choice.score, 4)}
            return replace(instance, mask=choice.mask, origin=self.name, scores=scores)
        other = self._instead.single(image, instance, known)
        if choice is None:  # no label inside the image, which `classical` says too
            return other
        said = len(instance.reasons)
        doubt = f"{self.name}: {choice.doubt}"
        return replace(other, reasons=(*instance.reasons, doubt, *other.reasons[said:]))


def _seen(instance: Instance, seen: Seen | None) -> Instance:
    """The instance with the detector's certainty; without a score where it found nothing."""
    if seen is None:
        return instance
    return replace(instance, scores={**instance.scores, "detector": round(seen.score, 4)})
