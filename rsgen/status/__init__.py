"""`status`: how far runs are, told from their folders alone. Nothing is written, no lock taken."""

from __future__ import annotations

from rsgen.status.folders import look
from rsgen.status.records import RunStatus, Status

__all__ = ["RunStatus", "Status", "look"]
