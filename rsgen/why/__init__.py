"""`why`: one sample with everything that was ever said of it, and where it comes from."""

from __future__ import annotations

from rsgen.why.find import find_sample
from rsgen.why.picture import write_picture
from rsgen.why.sample import Explained, Judged, ObjectExplained, explain

__all__ = ["Explained", "Judged", "ObjectExplained", "explain", "find_sample", "write_picture"]
