"""Where the stages of a pipeline lie, and what each reads; what a series makes anew."""

from __future__ import annotations

import json
from pathlib import Path

from rsgen import __version__
from rsgen.config import section_name
from rsgen.errors import DataError
from rsgen.images import replace_bytes
from rsgen.job import Job
from rsgen.pipeline_file import Pipeline, StageEntry, input_items
from rsgen.request import MODEL_KEYS, digest, request_keys
from rsgen.series import Turn, committed_turns
from rsgen.store import input_ref, is_committed

__all__ = ["Folders", "anew", "read_record", "stage_folder"]


def stage_folder(work: Path, name: str, stage_job: Job) -> Path:
    """DIR/<stage>-<8 digits>: they change with the request and its inputs' contents."""
    refs = [
        input_ref(key, path) for key, paths in sorted(stage_job.inputs.items()) for path in paths
    ]
    keys = request_keys(stage_job.command, stage_job.config, refs, {}, stage_job.options)
    contents = [ref.manifest_hash for ref in refs] + _local_models(stage_job)
    return work / f"{name}-{digest([__version__, keys, contents])[:8]}"


def _local_models(stage_job: Job) -> list[str]:
    """Hashes of the weights in local folders that the stage's section names."""
    section = section_name(stage_job.command)
    values = getattr(stage_job.config, section).model_dump()
    named = [
        values.get(key.partition(".")[2])
        for key in sorted(MODEL_KEYS)
        if key.startswith(f"{section}.")
    ]
    local = [str(value) for value in named if value and Path(str(value)).is_dir()]
    if not local:
        return []
    from rsgen.models.base import ModelRef, model_folder, model_hash

    return [model_hash(model_folder(ModelRef.parse(value))) for value in local]


def anew(pipeline: Pipeline) -> frozenset[str]:
    """The stages that a series makes anew: `generate`, and all that reads it."""
    found: set[str] = set()
    for name, entry in pipeline.stages.items():
        if entry.command == "generate" or found & {value for _, value in input_items(entry)}:
            found.add(name)
    return frozenset(found)


class Folders:
    """Which folder each stage has: in DIR, or in the turn's folder for what is made anew."""

    def __init__(self, work: Path, pipeline: Pipeline, turn: Turn | None) -> None:
        self._work, self._order, self._turn = work, list(pipeline.stages), turn
        self._anew = anew(pipeline) if turn is not None else frozenset()
        self._shared = read_record(work)
        self._own = {} if turn is None else read_record(turn.path)

    def home(self, name: str) -> Path:
        """Where the stage's folders lie."""
        return self._turn.path if self._turn is not None and name in self._anew else self._work

    def known(self, name: str) -> bool:
        return name in (self._own if name in self._anew else self._shared)

    def path(self, name: str) -> Path:
        return self.home(name) / (self._own if name in self._anew else self._shared)[name]

    def is_anew(self, name: str) -> bool:
        return name in self._anew

    def begin(self) -> None:
        """Write the records before the first stage ends: who looks sees what is to come."""
        for home in dict.fromkeys(map(self.home, self._order)):
            self._write(home)

    def set(self, name: str, folder: Path) -> None:
        """Make a folder the stage's current one."""
        (self._own if name in self._anew else self._shared)[name] = folder.name
        self._write(self.home(name))

    def _write(self, home: Path) -> None:
        order = [name for name in self._order if self.home(name) == home]
        row: dict[str, object] = {"schema": 1, "stages": dict(self.stages(home)), "order": order}
        if self._turn is not None and home == self._turn.path:
            row["series"] = self._turn.to_json()
        replace_bytes(home / "run.json", (json.dumps(row, indent=1) + "\n").encode())

    def stages(self, home: Path) -> dict[str, str]:
        """The record of DIR, or of a turn: what it shares lies beside it."""
        if self._turn is None or home == self._work:
            return self._shared
        shared = {n: f"../{f}" for n, f in self._shared.items() if n not in self._anew}
        both = {**shared, **self._own}
        return {name: both[name] for name in self._order if name in both}

    def inputs(self, entry: StageEntry, name: str) -> dict[str, list[Path]]:
        """Input name -> folders: an earlier stage's by its name, anything else as a path.

        An export of what is made anew holds every turn of the series, the oldest first.
        """
        inputs: dict[str, list[Path]] = {}
        earlier = self._order[: self._order.index(name)]
        for key, value in input_items(entry):
            paths = inputs.setdefault(key, [])
            if value not in earlier:
                paths.append(Path(value))
                continue
            if entry.command == "export" and key == "run" and value in self._anew:
                paths += self._of_earlier_turns(value)
            paths.append(self.path(value))
        return inputs

    def _of_earlier_turns(self, name: str) -> list[Path]:
        """The stage's folders of the complete turns that met their quality gates."""
        assert self._turn is not None
        found = []
        for turn in committed_turns(self._work, self._turn.name, 0):
            if turn.number >= self._turn.number or turn.exit_code != 0:
                continue
            record = read_record(turn.path)
            folder = turn.path / record.get(name, "nothing")
            if name not in record or not is_committed(folder):
                raise DataError(
                    f"{turn.path}: its stage {name} is gone, so this export would lack its images",
                    hint=f"put it back, move {turn.path.name} as a whole out of {self._work}, "
                    "or begin another series",
                )
            found.append(folder)
        return found


def read_record(home: Path) -> dict[str, str]:
    """Stage -> folder, as DIR/run.json tells it; nothing where there is none yet."""
    path = home / "run.json"
    if not path.is_file():
        return {}
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return {str(name): str(folder) for name, folder in stages.items() if folder[:3] != "../"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not the record of a pipeline ({error})", hint="give --work another folder"
        ) from error
