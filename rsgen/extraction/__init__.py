"""Instance masks from labels: backends, and the stage that runs them."""

from rsgen.extraction.base import MaskBackend, resolve_contested

__all__ = ["MaskBackend", "resolve_contested"]
