"""What a training request may say, what its plan freezes, and how several ranks end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from rsgen.errors import GateMissed, Stopped, UsageError
from rsgen.models.base import load_model
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.reporting import NullReporter, RunSummary
from rsgen.request import RunInfo
from rsgen.runs import Control
from rsgen.scorers.novelty import LatentNovelty
from rsgen.settings import TrainConfig
from rsgen.train import train
from rsgen.training import loop
from rsgen.training.neighbours import nearest_training_images
from rsgen.training.session import default_threads
from tests.build_models import SIZE
from tests.build_training import history
from tests.unit.test_train import job
from tests.unit.test_train_loop import DEFAULTS, Toy, Twofold
from tests.unit.test_train_loop import run as fit_toy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The thread counts that torch was given; the tests' own count stays as it is."""
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    yield given


# ---------------------------------------------------------------- the frozen plan


def test_a_resume_computes_as_its_plan_says(
    tmp_path: Path, run: Path, base: Path, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a resume on another machine that changes device, number type or threads."""
    whole = train(job(tmp_path / "whole", run, base))
    out = tmp_path / "out"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    saved = out / "state" / "step-00000002"
    with pytest.raises(Stopped):
        train(job(out, run, base, control=Control(requested=saved.is_dir)))
    plan = RunInfo.load(out).plan
    assert plan is not None and (plan.threads, threads[-1]) == (3, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr("rsgen.train.device_name", lambda a: "cuda" if a == "auto" else a)
    parts = train(job(out, run, base))
    assert threads[-1] == 3
    assert RunInfo.load(out).plan == plan
    assert history(parts) == history(whole)


def test_threads_that_were_asked_for_are_used(
    tmp_path: Path, run: Path, base: Path, threads: list[int]
) -> None:
    """Catches a run.json that says 2 threads while torch takes what it likes."""
    train(job(tmp_path / "out", run, base, **{"execution.threads": 2, "train.max_steps": 1}))
    assert threads == [2]


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("", None), ("no", None)])
def test_default_threads(asked: str, expected: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches ranks that each take every core though torchrun shared them out."""
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert default_threads() == (expected or len(os.sched_getaffinity(0)))


# ---------------------------------------------------------------- values at their edge


@pytest.mark.parametrize(
    "keys",
    [
        {"train.views": 0},
        {"train.validation_samples": 0, "train.validate_every": 1},
        {"train.task": "autoencoder", "train.validation_samples": 0, "train.validate_every": 1},
    ],
    ids=["no kept views", "no validation pictures", "none of an autoencoder"],
)
def test_nothing_is_a_number_too(
    tmp_path: Path, run: Path, base: Path, keys: dict[str, Any]
) -> None:
    """Catches lists that are stacked though they may be empty."""
    summary = train(job(tmp_path / "out", run, base, **{"train.max_steps": 2, **keys}))
    assert summary.exit_code == 0 and summary.counts["steps"] == 2


def test_two_models_to_start_from_are_refused(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches a --base that --init-from silently overrules."""
    with pytest.raises(UsageError, match="one model"):
        train(job(tmp_path / "out", run, base, **{"train.init_from": str(base)}))


@pytest.mark.parametrize(("learn", "moves"), [(None, False), (True, True)])
def test_the_text_encoder_of_a_base_learns_on_request(
    tmp_path: Path, run: Path, base: Path, learn: bool | None, moves: bool
) -> None:
    """Catches a fine-tune that unlearns words; only a start from scratch learns them unasked."""
    keys = {"train.task": "base", "train.learn_text": learn, "train.max_steps": 2}
    train(job(tmp_path / "out", run, base, **{k: v for k, v in keys.items() if v is not None}))
    after, before = load_model(tmp_path / "out"), load_model(base)
    assert isinstance(after, StableDiffusion) and isinstance(before, StableDiffusion)
    pairs = zip(after.text_encoder.parameters(), before.text_encoder.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs) is moves


def test_every_key_has_a_reader() -> None:
    """Catches a key that a person may set and nothing looks at."""
    files = [ROOT / "rsgen" / "train.py", *(ROOT / "rsgen" / "training").glob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    one_valued = {"method", "batch"}
    unread = {key for key in TrainConfig.model_fields if not re.search(rf"settings\.{key}\b", code)}
    assert unread <= one_valued


def test_dropout_follows_the_seed(tmp_path: Path) -> None:
    """Catches runs of other seeds that drop the very same weights."""
    results = [
        fit_toy(tmp_path / str(k), Toy(0.5), seed=seed, max_steps=2)
        for k, seed in enumerate((1, 2, 1))
    ]
    first, other, again = (r.history for r in results if r is not None)
    assert first == again and first != other


def test_training_and_filter_measure_alike() -> None:
    """Catches an alarm in training whose distances mean something else in the filter."""
    values = np.random.default_rng(0).standard_normal((9, 4, 8, 8), dtype=np.float32)
    training, generated = torch.from_numpy(values[:6]), torch.from_numpy(values[5:])
    report = nearest_training_images(generated, training)
    scorer = LatentNovelty()
    flat = values.reshape(9, -1)
    expected = scorer.distances(flat[5:], flat[:6]).min(axis=1)
    assert report.distances == pytest.approx(expected.tolist())
    assert report.distances[0] == 0 and report.nearest[0] == 5 and 0 in report.copies


# ---------------------------------------------------------------- several ranks


BUSY_S = 600.0  # a bound on hanging alone: three interpreters load torch, on a machine in use
ranks = pytest.mark.timeout(3 * BUSY_S / 2)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Two ranks on this machine, which need no host name and leave nobody behind."""
    line = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [sys.executable, *line, "--local-addr", "127.0.0.1", *map(str, arguments)]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            out, err = process.communicate(timeout=BUSY_S)
        except BaseException:  # a killed torchrun leaves its ranks
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@ranks
@pytest.mark.loopback
@pytest.mark.parametrize(
    "more",
    [
        ["train.method=plain"],
        [
            "train.method=of-diff",
            "train.batch=cf-comp",
            # these scenes are alike, and their objects lie at the same places
            "train.cf_comp.max_overlap=1",
            "train.cf_comp.max_radiometry=1",
        ],
    ],
    ids=["plain", "of-diff with cf-comp"],
)
def test_two_ranks_speak_once_and_have_the_losses_of_one(
    tmp_path: Path, run: Path, base: Path, cli_here: Any, more: list[str]
) -> None:
    """Catches ranks that see the same samples or fight for the lock, and a summary a rank: two
    JSON objects are no JSON."""
    keys = [f"train.size={SIZE}", "train.validation_samples=0", "execution.threads=1", *more]
    words = [
        "train", run, "--base", base, "--steps", 4, "--batch-size", 2, "--json",
        *(w for key in keys for w in ("-s", key)),
    ]  # fmt: skip
    done = torchrun("-m", "rsgen_cli", *words, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["counts"]["steps"] == 4
    one, two = (cli_here(*words, "--out", tmp_path / name) for name in ("one", "two"))
    assert two.json["status"] == "no-op", two
    losses = [history(RunSummary("train", str(tmp_path / name), "done")) for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4), one


TOGETHER = """
import os, sys
from pathlib import Path
from accelerate import Accelerator
from rsgen.errors import Stopped
from rsgen.reporting import NullReporter
from rsgen.training import loop
from rsgen.training.session import leave_ranks
from tests.unit.test_train_loop import Toy, Twofold
from tests.unit.test_train_requests import STOPPED, TWOFOLD

accelerator, out = Accelerator(cpu=True), Path(sys.argv[1])
calls = 0

def check_stop():
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == 3:
        raise Stopped("its own clock")

try:
    loop.fit(Toy(), STOPPED, accelerator, out / "stopped", NullReporter(), check_stop)
except Stopped:
    (out / ("stopped-" + os.environ["RANK"])).write_text(str(calls))
loop.BUCKET = 40  # several messages a step
loop.fit(Twofold(0.0), TWOFOLD, accelerator, out / "two", NullReporter(), lambda: None)
leave_ranks()
"""
STOPPED = loop.LoopSettings(**DEFAULTS)
TWOFOLD = loop.LoopSettings(**{**DEFAULTS, "accumulate": 2, "warmup_steps": 0})


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left of a fit that one of them stopped, and of one with several losses."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "together.py"
    script.write_text(TOGETHER, encoding="utf-8")
    done = torchrun(script, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@ranks
@pytest.mark.loopback
def test_a_stop_of_one_rank_ends_all_after_the_same_step(two_ranks: Path) -> None:
    """Catches a rank that leaves while the others wait for it until they are killed."""
    assert [(two_ranks / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
    assert (two_ranks / "stopped" / "step-00000003").is_dir()


@ranks
@pytest.mark.loopback
def test_two_ranks_share_the_gradients_of_several_losses(tmp_path: Path, two_ranks: Path) -> None:
    """Catches ranks that drift apart where no wrapper averages gradients for them."""
    alone = Twofold(0.0)
    loop.fit(alone, TWOFOLD, Accelerator(cpu=True), tmp_path / "one", NullReporter(), lambda: None)
    states = [folder / "step-00000009" for folder in (tmp_path / "one", two_ranks / "two")]
    one, two = (load_file(state / "weights.safetensors") for state in states)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    one, two = (load_file(state / "history.safetensors") for state in states)
    torch.testing.assert_close(two["loss"], one["loss"], rtol=1e-5, atol=0)


def test_every_rank_tells_of_a_missed_gate(
    tmp_path: Path, run: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches exit 0 of the ranks that write nothing, after a loss that was not a number."""
    monkeypatch.setattr(Accelerator, "is_main_process", property(lambda self: False))
    monkeypatch.setattr(loop, "_step", lambda *a: (float("nan"), False))
    summary = train(job(tmp_path / "out", run, base))
    assert (summary.status, summary.exit_code) == ("gate-missed", GateMissed.exit_code)
