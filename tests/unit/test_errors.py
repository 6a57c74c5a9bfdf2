"""The error tree: exit codes, hints, and the trip through a worker process."""

from __future__ import annotations

import errno
import pickle

import pytest

from rsgen import errors
from rsgen.errors import RsgenError, SetupError, from_os_error

KINDS = [getattr(errors, n) for n in errors.__all__ if n[0].isupper()]
CODES = {
    "RsgenError": 1,
    "UsageError": 2,
    "DataError": 3,
    "SetupError": 4,
    "OutOfMemory": 4,
    "TooManyFailures": 5,
    "LockedError": 6,
    "GateMissed": 7,
    "Stopped": 75,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_exit_codes_are_the_contract(kind: type[RsgenError]) -> None:
    assert kind.exit_code == CODES[kind.__name__]
    assert f"{kind.__name__}  " in str(errors.__doc__) or kind is RsgenError


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_errors_survive_the_way_from_a_worker(kind: type[RsgenError]) -> None:
    """Catches a hint lost, or a TypeError while unpickling, in a process pool."""
    for error in (kind("what", hint="do this"), kind("what")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.message, again.hint, str(again)) == (error.message, error.hint, str(error))


def test_the_fix_is_part_of_the_text() -> None:
    assert str(RsgenError("a", hint="b")) == "a\n  fix: b"
    assert str(RsgenError("a")) == "a"


@pytest.mark.parametrize(
    ("code", "machine"),
    [(errno.ENOSPC, True), (errno.EACCES, True), (errno.ENOENT, False), (errno.EINVAL, False)],
    ids=["disk full", "no access", "missing file", "bad argument"],
)
def test_which_os_errors_are_the_machines(code: int, machine: bool) -> None:
    """Catches a full disk reported as a bug, and a bug reported as a full disk."""
    found = from_os_error(OSError(code, "text", "/some/file"))
    assert (found is not None) is machine
    if found is not None:
        assert isinstance(found, SetupError) and "/some/file" in found.message
