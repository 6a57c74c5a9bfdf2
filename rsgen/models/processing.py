"""How a transformers model wants its pixels, as the files of its folder say; no torchvision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsgen.errors import SetupError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "processor_settings", "silence_transformers"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def processor_settings(folder: Path) -> dict[str, Any]:
    """The image part of preprocessor_config.json or processor_config.json; empty without them.

    Raises:
        SetupError: a file that is not JSON.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            data = dict(json.loads(path.read_text(encoding="utf-8")))
            return dict(data.get("image_processor") or data)
        except (OSError, ValueError, TypeError) as error:
            raise SetupError(f"{path}: not readable ({error})", hint="download it again") from error
    return {}


def silence_transformers() -> None:
    """Only errors, no bars: a table of unused weights or advice is not for users."""
    import transformers

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
