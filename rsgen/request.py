"""What was asked for: a request's identity, its frozen plan, and run.json.

A request is its command, its configuration without counts, its inputs and its models. The
same request on the same OUT is a no-op or a resume; another one is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rsgen import __version__
from rsgen.config import Config, section_name
from rsgen.errors import DataError, UsageError
from rsgen.records import ClassTable
from rsgen.workers.script import script_hashes

__all__ = [
    "InputRef",
    "Plan",
    "RunInfo",
    "canonical_json",
    "digest",
    "item_seed",
    "refuse_other_request",
    "request_fingerprint",
    "request_keys",
]

SCHEMA = 1
# Counts are no part of a request's identity: a larger one extends the run. Nor are remarks
# and patience.
COUNT_KEYS: dict[str, frozenset[str]] = {
    "scenes": frozenset({"count"}),
    "extract-masks": frozenset({"license", "command_limit_s"}),
    "generate": frozenset({"count"}),
}
# Keys that may name files: what the files say is the request, not where they lie.
FILE_KEYS = frozenset(
    {
        "extract_masks.classes",
        "extract_masks.phrases",
        "generate.classes",
        "generate.templates",
        "export.category_ids",
    }
)
# Keys that hold a worker's command: the scripts that it names are the request too.
COMMAND_KEYS = frozenset({"extract_masks.command"})
# Keys that may name a model's folder: its weights enter by their hash.
MODEL_KEYS = frozenset(
    {
        "train.base",
        "train.init_from",
        "generate.base",
        "extract_masks.model",
        "extract_masks.captions",
        "extract_masks.detector",
    }
)
# The option of a run whose seed is its own in a series: what splits are drawn with.
SPLIT_SEED = "split_seed"
# Commands whose result depends on the batch size and number type themselves.
LEARNERS = frozenset({"train", "train-judge", "rl-tune"})
# Libraries whose version may change labels or pixels.
LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "shapely",
    "rasterio",
    "torch",
    "diffusers",
    "transformers",
)


@cache
def library_versions() -> Mapping[str, str]:
    """Versions of rsgen and of the installed libraries that its results depend on."""
    found = {"rsgen": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def canonical_json(value: Any) -> bytes:
    """JSON bytes with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(value: Any) -> str:
    """32 hex digits over the canonical JSON of a value."""
    return hashlib.blake2b(canonical_json(value), digest_size=16).hexdigest()


def item_seed(seed: int, stage: str, item_id: str) -> int:
    """The seed of one item, in [0, 2^63): depends on (seed, stage, id) only."""
    text = f"{seed}/{stage}/{item_id}".encode()
    value = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return value & (2**63 - 1)


@dataclass(frozen=True)
class InputRef:
    """An input as run.json records it. `manifest_hash` changes when a run has grown.

    `files` are those of a raw data set, by name: path, bytes, and the hash of a label file;
    OUT/inputs.json holds them.
    """

    name: str
    path: str
    fingerprint: str
    manifest_hash: str
    files: tuple[tuple[Any, ...], ...] = field(default=(), compare=False, repr=False)

    def to_json(self) -> dict[str, str]:
        return {
            "name": self.name,
            "path": self.path,
            "fingerprint": self.fingerprint,
            "manifest_hash": self.manifest_hash,
        }


@dataclass(frozen=True)
class Plan:
    """What the first start freezes; a resume uses it unchanged."""

    count: int
    shards: tuple[tuple[int, int], ...]
    batch_size: int
    dtype: str
    device: str
    threads: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Plan:
        shards = tuple((int(a), int(b)) for a, b in row["shards"])
        return cls(**{**row, "shards": shards})

    def extended(self, count: int, shard_size: int) -> Plan:
        """The same plan with more items in new shards after the old ranges."""
        starts = range(self.count, count, shard_size)
        more = tuple((start, min(start + shard_size, count)) for start in starts)
        return Plan(
            count, self.shards + more, self.batch_size, self.dtype, self.device, self.threads
        )


@dataclass(frozen=True)
class RunInfo:
    """A run as its run.json tells it; enough to rebuild the stage in any process."""

    command: str
    config: Config
    out: Path
    fingerprint: str
    inputs: tuple[InputRef, ...]
    classes: ClassTable
    image_roots: tuple[str, ...]
    model_hashes: Mapping[str, str]
    plan: Plan | None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def fingerprint8(self) -> str:
        return self.fingerprint[:8]

    def paths(self, name: str) -> list[Path]:
        """Every input path of that name, in order."""
        return [Path(ref.path) for ref in self.inputs if ref.name == name]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "command": self.command,
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "inputs": [ref.to_json() for ref in self.inputs],
            "classes": self.classes.to_json(),
            "image_roots": list(self.image_roots),
            "model_hashes": dict(self.model_hashes),
            "options": dict(self.options),
            "versions": dict(library_versions()),
            "plan": None if self.plan is None else asdict(self.plan),
        }

    @classmethod
    def load(cls, out: Path) -> RunInfo:
        """Read OUT/run.json.

        Raises:
            DataError: not a run directory, or written by another schema.
        """
        path = out / "run.json"
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(
                f"{out}: not a run directory (no run.json)", hint="give the OUT of a command"
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        schema = row.get("schema") if isinstance(row, dict) else None
        if schema != SCHEMA:
            raise DataError(
                f"{path}: schema {schema!r}, this version reads {SCHEMA}",
                hint="make the run again with this version",
            )
        try:
            return cls._from_row(row, out)
        except (KeyError, TypeError, AttributeError, ValidationError, UsageError) as error:
            raise DataError(
                f"{path}: not the record of a command's run ({type(error).__name__}: {error})",
                hint="give the OUT of a command made by this version",
            ) from error

    @classmethod
    def _from_row(cls, row: Mapping[str, Any], out: Path) -> RunInfo:
        return cls(
            command=row["command"],
            config=Config.model_validate(row["config"]),
            out=out,
            fingerprint=row["fingerprint"],
            inputs=tuple(InputRef(**ref) for ref in row["inputs"]),
            classes=ClassTable.from_json(row["classes"]),
            image_roots=tuple(row["image_roots"]),
            model_hashes=row["model_hashes"],
            plan=None if row["plan"] is None else Plan.from_json(row["plan"]),
            options=row["options"],
        )


def request_keys(
    command: str,
    config: Config,
    inputs: Sequence[InputRef],
    model_hashes: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that makes a request this request, as dotted key -> value."""
    section = section_name(command)
    data = config.model_dump(mode="json")
    keys: dict[str, Any] = {"command": command, "seed": config.seed, "classes": data["classes"]}
    for key, value in data.get(section, {}).items():
        if key not in COUNT_KEYS.get(command, frozenset()):
            keys[f"{section}.{key}"] = _by_contents(f"{section}.{key}", value)
    if command in LEARNERS:
        keys["execution.batch_size"] = config.execution.batch_size
        keys["execution.dtype"] = config.execution.dtype
    for position, ref in enumerate(inputs):
        keys[f"input {ref.name}[{position}]"] = ref.fingerprint
    for name, value in model_hashes.items():
        keys[f"model {name}"] = value
    for name, value in (options or {}).items():
        keys[f"option {name}"] = value
    return keys


def _by_contents(key: str, value: Any) -> Any:
    """A value with the hashes of files that it names; a model's folder as such."""
    if key in MODEL_KEYS and isinstance(value, str) and Path(value).is_dir():
        return "a local folder"
    if key in COMMAND_KEYS and isinstance(value, str):
        return " ".join([value, *(f"(file {name})" for name in script_hashes(value))])
    if key not in FILE_KEYS or value is None:
        return value
    if not isinstance(value, str):
        return [_by_contents(key, item) for item in value]
    path = Path(value.removeprefix("from="))
    return f"file {hash_file(path)}" if path.is_file() else value


def hash_file(path: Path) -> str:
    """32 hex digits over a file's bytes."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def request_fingerprint(keys: Mapping[str, Any]) -> str:
    """The hash that names a request; 32 hex digits."""
    return digest({"schema": SCHEMA, **keys})


def differing_request(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines `key: old -> new` for the keys in which two requests differ."""
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)!r} -> {new.get(key, absent)!r}"
        for key in sorted({*old, *new})
        if old.get(key, absent) != new.get(key, absent)
    ]


def refuse_other_request(
    out: Path, old: RunInfo, keys: Mapping[str, Any], changed: Mapping[str, str] | None = None
) -> None:
    """Raise UsageError when a used OUT was made by another request.

    `changed`: key of a raw input -> its files that are not what the run saw.
    """
    if old.command != keys["command"]:
        raise UsageError(
            f"{out} holds a {old.command} run, not {keys['command']}",
            hint=f"use another folder: --out {out}-{keys['command']}",
        )
    before = request_keys(old.command, old.config, old.inputs, old.model_hashes, old.options)
    lines = differing_request(before, keys)
    contents = (FILE_KEYS | COMMAND_KEYS) & set(keys)
    named = [key for key in sorted(contents) if "file " in str(keys[key])]
    if not lines and named and old.fingerprint != request_fingerprint(keys):
        lines = [f"the contents of the file that {', '.join(named)} names"]
    if lines:
        for key, files in (changed or {}).items():
            lines = [
                f"{line}; changed: {files}" if line.startswith(key) else line for line in lines
            ]
        raise UsageError(
            f"{out} holds another request; these differ:\n  " + "\n  ".join(lines),
            hint=f"give this request a folder of its own: --out {out}-2",
        )
