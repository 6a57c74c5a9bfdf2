"""Backend `text-prompted`: masks by networks of transformers that are asked by class name.

    --model CLIPSEG                        maps of each class, cut into instances
    --model SAM --detector GROUNDING-DINO  SAM, prompted with boxes that a detector made tight

Which of the two it is follows from the model's config.json. A program in another environment
(RemoteSAM) is backend `worker`.
"""

from __future__ import annotations

import json
from pathlib import Path

from rsgen.errors import SetupError, UsageError
from rsgen.extraction.backends import BackendSetup
from rsgen.extraction.base import MaskBackend
from rsgen.extraction.sam import FAMILIES as SAM_FAMILIES
from rsgen.extraction.sam import SamBackend, sam_family
from rsgen.images import sha256_file
from rsgen.models.base import ModelRef, model_folder, model_hash
from rsgen.request import digest
from rsgen.settings import ExtractMasksConfig

__all__ = ["TextPromptedBackend"]

CLIPSEG = "clipseg"
EXAMPLES = (
    "--model hub:CIDAS/clipseg-rd64-refined, or --model hub:facebook/sam-vit-base --detector "
    "hub:IDEA-Research/grounding-dino-tiny"
)
READ_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


class TextPromptedBackend:
    """What the registry knows; `open` gives the backend that the model is for."""

    name = "text-prompted"
    uses_torch = True
    takes_detector = True
    batch_size = 16  # classes, or boxes, at once
    example_model = "hub:CIDAS/clipseg-rd64-refined"

    @classmethod
    def model_hashes(cls, settings: ExtractMasksConfig) -> dict[str, str]:
        """The weights, and how pixels and words are prepared for them.

        Raises:
            UsageError: another kind of model, or SAM without a detector.
            SetupError: out of reach, incomplete, or only pickle weights.
        """
        folder, _ = _opened(settings)
        found = {"segmenter": _hash(folder)}
        if settings.detector is not None:
            found["detector"] = _hash(model_folder(ModelRef.parse(settings.detector)))
        return found

    @classmethod
    def open(cls, setup: BackendSetup) -> MaskBackend:
        """Load the models of the settings.

        Raises:
            UsageError, SetupError: as `model_hashes`; OutOfMemory: they do not fit the device.
        """
        settings = setup.settings
        folder, family = _opened(settings)
        if family == CLIPSEG:
            from rsgen.extraction.clipseg import ClipSegBackend, ClipSegNetwork

            network = ClipSegNetwork.load(folder, setup.device, setup.dtype)
            return ClipSegBackend(network, settings.object_px, setup.batch_size, cls.name)
        from rsgen.extraction.grounding import Grounding
        from rsgen.extraction.sam_network import SamNetwork
        from rsgen.judge.pretrained import PretrainedDetector

        assert setup.classes is not None and settings.detector is not None, "checked in _opened"
        detector = PretrainedDetector.load(settings.detector, setup.classes, setup.device)
        sam = SamNetwork.load(folder, sam_family(folder), setup.device, setup.dtype)
        grounding = Grounding(detector, settings.object_px)
        return SamBackend(sam, settings.object_px, setup.batch_size, cls.name, grounding)


def _opened(settings: ExtractMasksConfig) -> tuple[Path, str]:
    """(the model's folder, its model_type), where model and detector go together."""
    folder = model_folder(ModelRef.parse(settings.model or ""))
    family = _family(folder)
    if family == CLIPSEG and settings.detector is not None:
        raise UsageError(
            f"model {settings.model}: CLIPSeg finds classes by itself; a detector is for SAM",
            hint="leave --detector out",
        )
    if family in SAM_FAMILIES and settings.detector is None:
        raise UsageError(
            f"model {settings.model}: SAM cannot be asked by class name",
            hint="add --detector hub:IDEA-Research/grounding-dino-tiny, or take --backend sam",
        )
    if family != CLIPSEG and family not in SAM_FAMILIES:
        raise UsageError(
            f"model {settings.model}: its config.json says {family!r}; backend 'text-prompted' "
            f"runs {CLIPSEG}, and {', '.join(SAM_FAMILIES)} with a detector",
            hint=EXAMPLES,
        )
    return folder, family


def _family(folder: Path) -> str:
    if (folder / "model_index.json").is_file():
        raise UsageError(f"model {folder}: a diffusion pipeline", hint=EXAMPLES)
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise SetupError(f"{path}: not readable ({error})", hint="download it again") from error


def _hash(folder: Path) -> str:
    files = [folder / name for name in READ_FILES]
    return digest([model_hash(folder), [[p.name, sha256_file(p)] for p in files if p.is_file()]])
