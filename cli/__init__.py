"""The command line of rsgen: parse, call one library function, print."""

from __future__ import annotations

import os

__all__ = ["main"]


def main() -> None:
    """Entry point of the `rsgen` script; sets what must be set before torch loads."""
    # Spinning OpenMP threads make two busy cores several times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MPLBACKEND", "Agg")
    from .app import app

    app()
