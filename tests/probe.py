"""A stage whose items do what their options say: for drivers, not for pictures."""

from __future__ import annotations

import os
from pathlib import Path

from rsgen.errors import OutOfMemory
from rsgen.execution import Control, Finish, FinishedRun, Shard, ShardOutput
from rsgen.records import ClassTable, Failure, Layout, Sample
from rsgen.request import RunInfo, item_seed
from tests.build import CLASSES

TARGET = "tests.probe:ProbeStage"


class ProbeStage:
    """Options: count, fail (items that fail while FILE exists), memory (largest batch that fits),

    gate (exit code of finish), trace (a file that gets one line for each open and shard).
    """

    shard_size = 4
    batch_size = 8

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._options = info.options

    def count(self) -> int:
        return int(self._info.config.scenes.count)

    def classes(self) -> ClassTable:
        return CLASSES

    def model_hashes(self) -> dict[str, str]:
        return {"probe": str(self._options.get("weights", "w"))}

    def describe(self) -> tuple[str, ...]:
        return ("a probe",)

    def open(self) -> None:
        self._trace("open")

    def _trace(self, text: str) -> None:
        if "trace" in self._options:
            with Path(str(self._options["trace"])).open("a") as handle:
                handle.write(f"{text} {os.getpid()}\n")

    def process(self, shard: Shard, control: Control) -> ShardOutput:
        self._trace(f"shard {shard.index}")
        assert self._info.plan is not None
        memory = int(self._options.get("memory", 99))
        batch = self._info.plan.batch_size
        if batch > memory or shard.index == self._options.get("memory_at"):
            raise OutOfMemory(f"batch {batch} does not fit")
        samples, failures = [], []
        for k in range(shard.start, shard.stop):
            broken = Path(str(self._options.get("broken", "nowhere")))
            if k in self._options.get("fail", ()) and broken.exists():
                failures.append(Failure(str(k), "probe", "DataError", "broken"))
            else:
                seed = item_seed(self._info.seed, "probe", str(k))
                samples.append(Sample(f"p-{k}", Layout(8, 8), attributes={"seed": str(seed)}))
            control.advance()
            control.check()
        return ShardOutput(samples, failures, {"instances": 2 * len(samples)})

    def finish(self, run: FinishedRun) -> Finish:
        path = run.path / "table.txt"
        path.write_text("".join(f"{s.id}\n" for s in run.samples()))
        gate = int(self._options.get("gate", 0))
        return Finish({"table": path}, {"probe": {"samples": len(run)}}, ("a note",), gate)
