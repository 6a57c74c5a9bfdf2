"""What makes two requests the same, and what a stranger's run.json gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsgen.errors import DataError, UsageError
from rsgen.judge.eyes import EyesRef
from rsgen.request import (
    InputRef,
    Plan,
    RunInfo,
    canonical_json,
    digest,
    item_seed,
    refuse_other_request,
    request_fingerprint,
    request_keys,
)
from rsgen.runs import run_json_bytes
from tests.build import CLASSES, config

REF = InputRef("run", "/somewhere/a", "f" * 32, "m" * 64)


def fingerprint(command: str = "scenes", *refs: InputRef, **keys: Any) -> str:
    return request_fingerprint(request_keys(command, config(**keys), refs, {}))


def test_item_seeds_are_fixed_for_ever() -> None:
    """Known answers: a change here would silently change every published data set."""
    import hashlib

    text = hashlib.blake2b(b"7/scenes/12", digest_size=8).digest()
    assert item_seed(7, "scenes", "12") == int.from_bytes(text, "big") & (2**63 - 1)
    seeds = {item_seed(s, stage, str(k)) for s in range(4) for stage in "ab" for k in range(50)}
    assert len(seeds) == 400
    assert all(0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize(
    ("command", "keys", "same"),
    [
        pytest.param("scenes", {"scenes.count": 9}, True, id="counts extend"),
        pytest.param("generate", {"generate.count": 9}, True, id="counts extend (generate)"),
        pytest.param("scenes", {"execution.workers": 4}, True, id="workers"),
        pytest.param("scenes", {"execution.batch_size": 4}, True, id="batch size of a stage"),
        pytest.param("scenes", {"execution.max_failure_rate": 0.5}, True, id="failure limit"),
        pytest.param("scenes", {"train.lr": 0.5}, True, id="another command's section"),
        pytest.param("scenes", {"seed": 1}, False, id="seed"),
        pytest.param("scenes", {"scenes.size": 64}, False, id="own section"),
        pytest.param("scenes", {"classes": [{"name": "x"}]}, False, id="classes"),
        pytest.param("train", {"execution.batch_size": 4}, False, id="batch size of a learner"),
        pytest.param("train", {"execution.dtype": "bf16"}, False, id="dtype of a learner"),
        pytest.param("train", {"train.max_steps": 9}, False, id="steps are no count"),
    ],
)
def test_which_keys_make_another_request(command: str, keys: dict[str, Any], same: bool) -> None:
    assert (fingerprint(command) == fingerprint(command, **keys)) is same


def test_inputs_count_by_content_not_by_place() -> None:
    """Catches a path in the fingerprint: two folders must give the same data."""
    moved = replace(REF, path="/elsewhere/b")
    grown = replace(REF, manifest_hash="n" * 64)
    other = replace(REF, fingerprint="0" * 32)
    base = fingerprint("filter", REF)
    assert fingerprint("filter", moved) == fingerprint("filter", grown) == base
    assert len({base, fingerprint("filter", other), fingerprint("filter", REF, REF)}) == 3
    assert fingerprint("filter") != fingerprint("generate")


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": (1, 2), "a": "ü"}) == b'{"a":"\\u00fc","b":[1,2]}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len(digest(None)) == 32


@pytest.mark.parametrize(
    ("first", "then", "size", "shards"),
    [
        (5, 5, 2, ((0, 2), (2, 4), (4, 5))),
        (4, 7, 4, ((0, 4), (4, 7))),
        (5, 9, 4, ((0, 4), (4, 5), (5, 9))),
        (0, 3, 2, ((0, 2), (2, 3))),
    ],
)
def test_extension_adds_shards_after_the_old(
    first: int, then: int, size: int, shards: tuple[tuple[int, int], ...]
) -> None:
    """Catches a re-cut of old ranges, which would rewrite finished parts."""
    plan = Plan(0, (), 8, "fp32", "cpu", 1).extended(first, size)
    assert plan.extended(then, size).shards == shards
    assert plan.extended(then, size).shards[: len(plan.shards)] == plan.shards


def info(out: Path, **keys: Any) -> RunInfo:
    settings = config(**keys)
    prints = request_fingerprint(request_keys("scenes", settings, [REF], {"unet": "ab"}))
    plan = Plan(0, (), 8, "fp32", "cpu", 1).extended(10, 4)
    return RunInfo(
        "scenes", settings, out, prints, (REF,), CLASSES, ("/r",), {"unet": "ab"}, plan, {"k": 1}
    )


def test_run_json_round_trip(tmp_path: Path) -> None:
    before = info(tmp_path, **{"scenes.types": ["harbour"], "classes": [{"name": "x"}]})
    (tmp_path / "run.json").write_bytes(run_json_bytes(before))
    assert RunInfo.load(tmp_path) == before
    assert before.fingerprint8 == before.fingerprint[:8]
    assert before.paths("run") == [Path("/somewhere/a")] and before.paths("pool") == []


def test_run_json_says_which_libraries_made_it(tmp_path: Path) -> None:
    versions = info(tmp_path).to_json()["versions"]
    assert {"rsgen", "numpy", "torch", "diffusers", "opencv-python-headless"} <= set(versions)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "{}",
        '{"schema": 99}',
        '{"schema": 1, "stages": {}}',
        '{"schema": 1, "command": "scenes"}',
    ],
    ids=["none", "empty", "list", "object", "newer", "a pipeline's", "cut"],
)
def test_foreign_run_json_is_a_data_error(text: str | None, tmp_path: Path) -> None:
    """Catches KeyError and friends (exit 1) on another tool's run.json."""
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=str(tmp_path)):
        RunInfo.load(tmp_path)


def test_run_json_with_keys_of_a_newer_version_is_a_data_error(tmp_path: Path) -> None:
    row = info(tmp_path).to_json()
    row["config"]["scenes"]["sparkle"] = 3
    (tmp_path / "run.json").write_text(json.dumps(row))
    with pytest.raises(DataError, match="sparkle"):
        RunInfo.load(tmp_path)


def test_another_request_is_refused_by_its_keys(tmp_path: Path) -> None:
    old = info(tmp_path / "OUT")
    refuse_other_request(
        tmp_path / "OUT", old, request_keys("scenes", config(), [REF], {"unet": "ab"}, {"k": 1})
    )
    keys = request_keys("scenes", config(seed=5, **{"scenes.size": 64}), [REF], {"unet": "cd"})
    with pytest.raises(UsageError) as caught:
        refuse_other_request(tmp_path / "OUT", old, keys)
    text = str(caught.value)
    assert "seed: 0 -> 5" in text
    assert "scenes.size: 256 -> 64" in text
    assert "model unet: 'ab' -> 'cd'" in text
    assert "option k: 1 -> '(absent)'" in text
    assert f"--out {tmp_path / 'OUT'}-2" in text


def test_a_file_that_a_key_names_counts_by_its_contents(tmp_path: Path) -> None:
    """Catches a resume that mixes two class tables because only the file's name was hashed."""
    path, elsewhere = tmp_path / "c.txt", tmp_path / "d.txt"
    path.write_text("ship\n")
    elsewhere.write_text("ship\n")
    first = fingerprint("extract-masks", **{"extract_masks.classes": str(path)})
    assert first == fingerprint("extract-masks", **{"extract_masks.classes": str(elsewhere)})
    old = RunInfo("extract-masks", config(**{"extract_masks.classes": str(path)}), tmp_path, first,
                  (), CLASSES, (), {}, None)  # fmt: skip
    path.write_text("ship\nplane\n")
    keys = request_keys("extract-masks", old.config, (), {})
    assert request_fingerprint(keys) != first
    with pytest.raises(UsageError, match=r"extract_masks\.classes"):
        refuse_other_request(tmp_path, old, keys)


def test_a_model_folder_counts_by_its_weights_and_not_by_its_spelling(tmp_path: Path) -> None:
    """Catches `./m` and `/abs/m` becoming two requests."""
    (tmp_path / "m").mkdir()
    straight = fingerprint("train", **{"train.base": str(tmp_path / "m")})
    assert straight == fingerprint("train", **{"train.base": f"{tmp_path}/./m"})
    assert straight != fingerprint("train", **{"train.base": "hub:ORG/NAME"})


# ---------------------------------------------------------------- programs of the user's


def test_a_worker_is_its_script_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a mended script whose answers are put beside those of the old one in silence."""
    monkeypatch.chdir(tmp_path)
    script, weights = Path("worker.py"), Path("weights.pt")
    script.write_text("1")
    weights.write_text("1")
    line = "python 'worker.py' --weights weights.pt"
    asked = config(**{"extract_masks.backend": "worker", "extract_masks.command": line})

    def keys() -> dict[str, Any]:
        return request_keys("extract-masks", asked, [REF], {})

    def looks() -> str:
        return EyesRef.parse(f"command: {line}").identity("reward")

    before, eyes = keys(), looks()
    run = RunInfo(
        "extract-masks",
        asked,
        Path("o"),
        request_fingerprint(before),
        (REF,),
        CLASSES,
        (),
        {},
        None,
    )
    weights.write_text("2")
    assert (keys(), looks()) == (before, eyes)
    refuse_other_request(run.out, run, keys())
    script.write_text("2")
    assert keys() != before and looks() != eyes
    with pytest.raises(UsageError, match=r"contents of the file that extract_masks\.command names"):
        refuse_other_request(run.out, run, keys())


@pytest.mark.parametrize(
    "line", ["python -m worker", "no-such.py", "python 'unclosed", "sh gone.sh"]
)
def test_a_line_without_a_script_is_the_line(line: str) -> None:
    """Catches runs of before that are no longer theirs."""
    keys = request_keys("extract-masks", config(**{"extract_masks.command": line}), [], {})
    assert keys["extract_masks.command"] == line
    assert EyesRef.parse(f"command: {line}").identity("reward") == digest(["command", line])
