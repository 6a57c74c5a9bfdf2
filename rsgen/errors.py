"""The error tree, and the one place where an error becomes an exit code.

RsgenError
+-- UsageError              2   a wrong option, key, or combination
+-- DataError               3   input that cannot be read at all
+-- SetupError              4   extra, model, device or disk is missing
|   +-- OutOfMemory         4   the device has too little memory
+-- TooManyFailures         5   failed items above the limit: run again to retry only those
+-- LockedError             6   a live run holds the folder
+-- GateMissed              7   committed, but a quality gate was not met
+-- Stopped                75   stopped on request: run the same line again
"""

from __future__ import annotations

import errno

__all__ = [
    "DataError",
    "GateMissed",
    "LockedError",
    "OutOfMemory",
    "RsgenError",
    "SetupError",
    "Stopped",
    "TooManyFailures",
    "UsageError",
    "from_os_error",
]


class RsgenError(Exception):
    """An error that the user can act on; everything else is a bug (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  fix: {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[RsgenError], message: str, hint: str | None) -> RsgenError:
    return kind(message, hint=hint)


class UsageError(RsgenError):
    exit_code = 2


class DataError(RsgenError):
    exit_code = 3


class SetupError(RsgenError):
    exit_code = 4


class OutOfMemory(SetupError):
    pass


class TooManyFailures(RsgenError):
    exit_code = 5


class LockedError(RsgenError):
    exit_code = 6


class GateMissed(RsgenError):
    exit_code = 7


class Stopped(RsgenError):
    exit_code = 75


# A disk that is full or may not be written is the machine's state, not a bug of ours.
_MACHINE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE)
)


def from_os_error(error: OSError) -> SetupError | None:
    """The environment error that an OSError means; None where it may be a bug."""
    if error.errno not in _MACHINE:
        return None
    return SetupError(
        f"{error.filename or 'a file'}: {error.strerror}",
        hint="make room or get access, then run the same line again",
    )
