"""Fetching a hub model: which files, whole and with the hashes that the hub names, resumable.

Files go where huggingface_hub and diffusers look for them: its cache (HF_HOME), blobs by hash
and a folder of links a commit. huggingface_hub starts a broken file anew; here what came is
kept and asked for from there on. A folder of links appears only when every file is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rsgen.errors import SetupError, UsageError
from rsgen.images import replace_bytes
from rsgen.models.choice import chosen_files
from rsgen.reporting import NullReporter, Reporter

__all__ = ["Fetched", "Unreachable", "cached_folder", "fetch_model", "is_offline"]

COMMIT = re.compile(r"[0-9a-f]{40}")
BLOB = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
SPARE_BYTES = 256 * 1024**2
CHUNK = 1 << 20
Chooser = Callable[[Sequence[str], str], list[str]]  # (file names, model for messages) -> wanted


class Unreachable(SetupError):
    """The hub cannot be reached; a model in the cache may still do."""


@dataclass(frozen=True)
class Fetched:
    """A model in the cache. `reference` names its exact commit; `fetched_bytes` came just now."""

    reference: str
    commit: str
    folder: Path
    files: int
    bytes: int
    fetched_bytes: int

    def to_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "model": self.reference,
            "commit": self.commit,
            "folder": str(self.folder),
            "files": self.files,
            "bytes": self.bytes,
            "fetched_bytes": self.fetched_bytes,
        }


@dataclass(frozen=True)
class _File:
    """One file of the commit. `blob` is its name in the cache: sha256 (LFS) or git's sha1."""

    name: str
    size: int
    blob: str

    @property
    def is_large(self) -> bool:
        return len(self.blob) == 64


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


def fetch_model(
    location: str,
    revision: str | None = None,
    subfolder: str | None = None,
    *,
    verify: bool = True,
    reporter: Reporter | None = None,
    choose: Chooser = chosen_files,
) -> Fetched:
    """Bring the safetensors, configurations and tokenizers of a model into the cache.

    Args:
        location: ORG/NAME. revision: a branch, tag or commit (default: main).
        verify: hash files that are in the cache already, too; what comes now always is.
        choose: which of the repository's files are wanted.

    Raises:
        Unreachable: no network, or HF_HUB_OFFLINE is set.
        SetupError: no such model or revision, only pickle weights, a wrong hash (the file is
            removed), or too little room on the disk.
    """
    reporter = reporter or NullReporter()
    name = _name(location, revision, subfolder)
    if is_offline():
        raise Unreachable(
            f"model {name}: HF_HUB_OFFLINE is set, so nothing is fetched",
            hint=f"HF_HUB_OFFLINE=0 rsgen doctor --fetch {name}",
        )
    if revision is not None and ".." in revision.split("/"):
        raise UsageError(
            f"model {name}: no revision has '..' in it", hint="give a branch, a tag or a commit"
        )
    commit, files = _listing(location, revision, subfolder, name, choose)
    storage = _storage(location)
    todo = [file for file in files if not _is_there(storage, file, verify=verify)]
    missing = sum(file.size - _partial_size(storage, file) for file in todo)
    _check_room(storage, missing, name)
    reporter.note(f"model {name}: {len(files)} files, {len(todo)} to fetch, {_gigabytes(missing)}")
    count = _Megabytes(reporter, missing)
    for file in todo:
        _download(storage, file, location, commit, name, count)
    folder = _link(storage, files, commit, revision)
    return Fetched(
        _name(location, commit, subfolder),
        commit,
        folder / subfolder if subfolder else folder,
        len(files),
        sum(file.size for file in files),
        missing,
    )


def cached_folder(location: str, revision: str | None, subfolder: str | None) -> Path | None:
    """Where the cache has this model, asked without the network; None where it has not."""
    storage = _storage(location)
    revision = revision or "main"
    commit = revision
    if not COMMIT.fullmatch(revision):
        try:
            commit = (storage / "refs" / revision).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    folder = storage / "snapshots" / commit
    folder = folder / subfolder if subfolder else folder
    known = any((folder / index).is_file() for index in ("model_index.json", "config.json"))
    return folder if known else None


def _name(location: str, revision: str | None, subfolder: str | None) -> str:
    at = f"@{revision}" if revision else ""
    return f"hub:{location}{at}{f'/{subfolder}' if subfolder else ''}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


# ---------------------------------------------------------------- what the hub has


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """What the hub's library raises, as errors that say what to type."""
    from huggingface_hub import errors

    # Its HTTP library has changed twice; all its errors have one base, re-exported here.
    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)
    page = name.removeprefix("hub:").partition("@")[0]
    try:
        yield
    except SetupError:
        raise
    except errors.GatedRepoError as error:
        raise SetupError(
            f"model {name}: its licence must be accepted first",
            hint=f"accept it on the page of {page}, then `hf auth login`, and type the line again",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SetupError(
            f"model {name}: the hub has no such model, or it is private",
            hint="check the spelling; for a private one `hf auth login` first",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SetupError(
            f"model {name}: the hub has no such revision",
            hint="give a branch, a tag or a commit that its page lists",
        ) from error
    except (http_error, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            raise  # the disk, not the net
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreachable(
            f"model {name} cannot be fetched ({said})",
            hint="where there is a network, type the same line again: what came is kept. "
            f"Or bring the folder from elsewhere: hf download {page} --local-dir FOLDER",
        ) from error


def _listing(
    location: str, revision: str | None, subfolder: str | None, name: str, choose: Chooser
) -> tuple[str, list[_File]]:
    """(commit, the files to have), from one request."""
    from huggingface_hub import HfApi

    with _hub_errors(name):
        info = HfApi().model_info(location, revision=revision, files_metadata=True, timeout=30)
    prefix = f"{subfolder}/" if subfolder else ""
    siblings = {s.rfilename: s for s in info.siblings or []}
    inside = [n.removeprefix(prefix) for n in siblings if n.startswith(prefix)]
    files = []
    for relative in choose(inside, name):
        sibling = siblings[prefix + relative]
        blob = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
        if sibling.size is None or blob is None or not BLOB.fullmatch(blob):
            raise SetupError(f"model {name}: the hub names no size and hash of {relative}")
        files.append(_File(prefix + relative, int(sibling.size), blob))
    if info.sha is None or not COMMIT.fullmatch(info.sha):
        raise SetupError(f"model {name}: the hub names no commit ({info.sha!r})")
    return info.sha, files


# ---------------------------------------------------------------- the cache


def _storage(location: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=location, repo_type="model")


def _blob(storage: Path, file: _File) -> Path:
    return storage / "blobs" / file.blob


def _partial(storage: Path, file: _File) -> Path:
    return storage / "blobs" / f"{file.blob}.rsgen-part"


def _partial_size(storage: Path, file: _File) -> int:
    path = _partial(storage, file)
    size = path.stat().st_size if path.is_file() else 0
    return size if size <= file.size else 0


def _is_there(storage: Path, file: _File, *, verify: bool) -> bool:
    """Whether the cache has the file whole; a damaged one is removed, to be fetched again."""
    path = _blob(storage, file)
    if not path.is_file():
        return False
    if path.stat().st_size == file.size and (not verify or _hash(path, file) == file.blob):
        return True
    path.unlink()
    return False


def _hash(path: Path, file: _File) -> str:
    """sha256 of an LFS file; of another git's own: sha1 over a header and the bytes."""
    found = hashlib.sha256() if file.is_large else hashlib.sha1(usedforsecurity=False)
    if not file.is_large:
        found.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _check_room(storage: Path, missing: int, name: str) -> None:
    folder = storage
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if missing + SPARE_BYTES > free:
        raise SetupError(
            f"model {name} needs {_gigabytes(missing)}, and {folder} has {_gigabytes(free)} left",
            hint="make room, or set HF_HOME to a folder on a larger disk",
        )


def _link(storage: Path, files: Sequence[_File], commit: str, revision: str | None) -> Path:
    """The folder of this commit: a relative link a file, and what the branch points at."""
    folder = storage / "snapshots" / commit
    for file in files:
        path = folder / PurePosixPath(file.name)
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(_blob(storage, file), path.parent)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.symlink_to(target)
        except OSError:  # a file system without links
            shutil.copyfile(_blob(storage, file), temporary)
        os.replace(temporary, path)
    if revision is None or not COMMIT.fullmatch(revision):
        path = storage / "refs" / (revision or "main")
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, commit.encode())
    return folder


# ---------------------------------------------------------------- the wire


class _Megabytes:
    """Bytes as they come, told as whole megabytes."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._rest = reporter, 0
        if total:
            reporter.stage("fetching", -(-total // 10**6), "megabyte")

    def add(self, count: int) -> None:
        whole, self._rest = divmod(self._rest + count, 10**6)
        self._reporter.advance(whole)


class _CountedFile(io.BufferedRandom):
    """A file that tells how much is written to it."""

    def __init__(self, path: Path, count: _Megabytes) -> None:
        super().__init__(io.FileIO(path, "r+"))
        self._count = count

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self._count.add(written)
        return written


def _download(
    storage: Path, file: _File, location: str, commit: str, name: str, count: _Megabytes
) -> None:
    """Fetch one file from where an earlier start left it, and keep it only if its hash is right.

    Raises:
        SetupError: another hash; what came is removed.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub import utils as hub_utils
    from huggingface_hub.file_download import http_get

    untyped: Any = hub_utils  # its names are there, but not declared as public
    untyped.disable_progress_bars()
    partial = _partial(storage, file)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.touch()
    with _CountedFile(partial, count) as handle:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX)  # another process may fetch the same
        if _blob(storage, file).is_file():
            partial.unlink(missing_ok=True)
            return
        start = handle.seek(0, os.SEEK_END)
        if start > file.size:
            start = handle.seek(0)
            handle.truncate()
        if start < file.size:
            with _hub_errors(name):
                http_get(
                    hf_hub_url(location, file.name, revision=commit),
                    handle,
                    resume_size=start,
                    headers=untyped.build_hf_headers(),
                    expected_size=file.size,
                )
        handle.flush()
        os.fsync(handle.fileno())
        found = _hash(partial, file)
        if found != file.blob:
            partial.unlink()
            raise SetupError(
                f"model {name}: {file.name} came with the hash {found}, not {file.blob}; it was "
                "removed",
                hint="type the same line again; if it stays so, the server or a proxy alters files",
            )
        os.replace(partial, _blob(storage, file))
