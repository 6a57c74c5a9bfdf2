"""Pipeline files: checked whole before anything runs; which stages are current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsgen.errors import DataError, RsgenError, UsageError
from rsgen.pipeline import (
    PipelineJob,
    find_config,
    print_pipeline,
    read_layers,
    read_pipeline,
    run_command,
    run_pipeline,
)
from rsgen.registry import BUILT_IN
from rsgen.reporting import RunSummary
from rsgen.runs import Job
from tests.build import config, sample_run
from tests.probe import TARGET


def write(path: Path, **tree: Any) -> str:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)


def stages(**more: Any) -> dict[str, Any]:
    """Two stages; the second takes the first one's samples."""
    return {
        "first": {"command": "scenes", "config": {"count": 3}},
        "second": {"command": "filter", "inputs": {"run": "first"}},
        **more,
    }


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both commands are the probe stage: nothing is drawn."""
    monkeypatch.setitem(BUILT_IN["stages"], "scenes", TARGET)
    monkeypatch.setitem(BUILT_IN["stages"], "filter", TARGET)


def run(path: str, work: Path, **more: Any) -> RunSummary:
    return run_pipeline(PipelineJob(path, work, **more))


def rows(summary: RunSummary) -> dict[str, str]:
    """Stage -> done or no-op."""
    return {n: str(v).split(",")[0] for n, v in summary.tables["stages"].items()}


def test_templates_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert find_config("quickstart") == find_config("pipelines/quickstart")
    file = write(tmp_path / "own.yaml", seed=3)
    assert find_config(file) == Path(file)
    with pytest.raises(UsageError, match=r"nowhere: no such file or template.*quickstart"):
        find_config("nowhere")


def test_layers_leave_the_stages_out(tmp_path: Path) -> None:
    file = write(tmp_path / "own.yaml", seed=3, stages=stages())
    assert read_layers([file]) == [{"seed": 3}]


def test_every_shipped_pipeline_is_valid() -> None:
    from rsgen.config import templates_root

    files = sorted((templates_root() / "pipelines").glob("*.yaml"))
    assert files
    for path in files:
        documents = list(yaml.safe_load_all(print_pipeline(PipelineJob(str(path), None))))
        assert len(documents) == len(read_pipeline(PipelineJob(str(path), None)).stages)


def test_a_stage_that_is_switched_off_stands_for_its_first_input(tmp_path: Path) -> None:
    """Catches a stage that runs all the same, and one that breaks those after it."""
    off = {"command": "filter", "inputs": {"run": "first", "real": "first"}, "enabled": False}
    after = {"command": "export", "inputs": {"run": ["between", "second"]}}
    tree = {"first": stages()["first"], "between": off}
    tree |= {"second": {"command": "filter", "inputs": {"run": "between"}}, "after": after}
    found = read_pipeline(PipelineJob(write(tmp_path / "p.yaml", stages=tree), None)).stages
    assert list(found) == ["first", "second", "after"]
    assert found["second"].inputs == {"run": "first"}
    assert found["after"].inputs == {"run": ["first", "second"]}
    with pytest.raises(UsageError, match="no stage 'between'"):
        read_pipeline(PipelineJob(str(tmp_path / "p.yaml"), None, first="between"))


@pytest.mark.parametrize(
    ("tree", "messages"),
    [
        pytest.param({"seed": 1}, ["needs a mapping `stages:`"], id="no stages"),
        pytest.param({"stages": ["scenes"]}, ["needs a mapping"], id="a list"),
        pytest.param(
            {"stages": {"a": {"command": "scnes"}, "b": {"commnd": "x"}, "c": None}},
            ["unknown command 'scnes'", "stages.b", "stages.c"],
            id="all problems at once",
        ),
        pytest.param(
            {"stages": {"a": {"command": "filter", "inputs": {"run": "b"}}}},
            ["stages.a.inputs.run: no earlier stage and no path 'b'"],
            id="input from nowhere",
        ),
        pytest.param(
            {
                "stages": {
                    "a": {"command": "filter", "inputs": {"run": "b"}},
                    "b": {"command": "scenes"},
                }
            },
            ["no earlier stage"],
            id="input from a later stage",
        ),
        pytest.param(
            {"stages": {"../../x": {"command": "scenes"}}}, ["a name is letters"], id="a path"
        ),
        pytest.param(
            {"stages": {"a": {"command": "scenes", "config": {"cuont": 1}}}},
            ["scenes.cuont: unknown key in scenes; did you mean 'count'?"],
            id="a key of a stage",
        ),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(
    tree: dict[str, Any], messages: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        run(write(tmp_path / "p.yaml", **tree), tmp_path / "work")
    for message in messages:
        assert message in str(caught.value)
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"first": "nope"}, "no stage 'nope'; stages: first, second"),
        ({"last": "nope"}, "no stage 'nope'"),
        ({"first": "second", "last": "first"}, "--from second comes after --until first"),
        ({"first": "second"}, "stage 'first' has not run yet"),
    ],
    ids=["from", "until", "crossed", "nothing before"],
)
def test_wrong_from_and_until(more: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run(write(tmp_path / "p.yaml", stages=stages()), tmp_path / "work", **more)


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize(
    ("more", "hint"),
    [
        ({"first": "secnd"}, "did you mean second?"),
        ({"first": "zzzz"}, "name one of them"),
        ({"settings": (("images.count", 13),)}, "-s generate.count=13"),
        ({"settings": (("images", 13),)}, "-s generate.KEY=13"),
    ],
    ids=["near", "far", "a stage's key", "a stage alone"],
)
def test_a_stage_s_name_in_the_wrong_place_is_told_the_right_one(
    more: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    """Catches a list of all sections as the answer to `-s images.count=13`."""
    tree = {**stages(), "images": {"command": "generate"}}
    with pytest.raises(UsageError) as caught:
        run(write(tmp_path / "p.yaml", stages=tree), tmp_path / "work", **more)
    assert hint in str(caught.value.hint)


def test_work_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--work"):
        run_pipeline(PipelineJob(write(tmp_path / "p.yaml", stages=stages()), None))


@pytest.mark.usefixtures("probes")
def test_the_out_of_a_command_is_no_work_folder(tmp_path: Path) -> None:
    """Catches a run.json overwritten by the pipeline's record."""
    out = sample_run(tmp_path / "out").path
    before = (out / "run.json").read_bytes()
    with pytest.raises(UsageError, match="is the OUT of another command"):
        run(write(tmp_path / "p.yaml", stages=stages()), out)
    assert (out / "run.json").read_bytes() == before


@pytest.mark.usefixtures("probes")
def test_a_foreign_record_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "run.json").write_text("[1]")
    with pytest.raises(DataError, match="not the record of a pipeline"):
        run(write(tmp_path / "p.yaml", stages=stages()), tmp_path / "work")


@pytest.mark.usefixtures("probes")
def test_stages_run_in_folders_of_their_own_and_once(tmp_path: Path) -> None:
    path, work = write(tmp_path / "p.yaml", stages=stages()), tmp_path / "work"
    first = run(path, work)
    assert rows(first) == {"first": "done", "second": "done"}
    assert first.counts["samples"] > 0 and "first: table" in first.artifacts
    current = json.loads((work / "run.json").read_text())["stages"]
    assert set(current) == {"first", "second"}
    assert all((work / folder / "manifest.json").is_file() for folder in current.values())
    assert rows(run(path, work)) == {"first": "no-op", "second": "no-op"}
    assert json.loads((work / "run.json").read_text())["stages"] == current


@pytest.mark.usefixtures("probes")
def test_a_larger_count_extends_the_stage_and_remakes_what_follows(tmp_path: Path) -> None:
    path, work = write(tmp_path / "p.yaml", stages=stages()), tmp_path / "work"
    run(path, work)
    before = json.loads((work / "run.json").read_text())["stages"]
    summary = run(path, work, settings=(("scenes.count", 5),))
    after = json.loads((work / "run.json").read_text())["stages"]
    assert rows(summary) == {"first": "done", "second": "done"}
    assert after["first"] == before["first"] and after["second"] != before["second"]
    assert (work / before["second"] / "manifest.json").is_file(), "old folders stay"
    with pytest.raises(RsgenError, match=r"stage first: .*already has 5 items, 3 asked") as caught:
        run(path, work)
    assert caught.value.hint and "--work" in caught.value.hint


@pytest.mark.usefixtures("probes")
def test_until_stops_and_from_goes_on(tmp_path: Path) -> None:
    path, work = write(tmp_path / "p.yaml", stages=stages()), tmp_path / "work"
    assert rows(run(path, work, last="first")) == {"first": "done"}
    assert rows(run(path, work, first="second")) == {"second": "done"}


def test_dry_run_and_print_write_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", stages=stages(), seed=4)
    summary = run(path, tmp_path / "work", dry_run=True)
    assert summary.status == "dry-run"
    assert summary.tables["stages"] == {"first": "scenes", "second": "filter first"}
    text = print_pipeline(PipelineJob(path, None, settings=(("seed", 5),)))
    first, second = yaml.safe_load_all(text)
    assert first["scenes"]["count"] == 3 and second["seed"] == 5
    assert not (tmp_path / "work").exists()


def test_which_layer_wins_in_a_pipeline(tmp_path: Path) -> None:
    """File < its stage < -c < -s."""
    path = write(
        tmp_path / "p.yaml",
        scenes={"count": 1, "size": 33, "style": "alt"},
        stages={"a": {"command": "scenes", "config": {"count": 2, "size": 44}}},
    )
    over = write(tmp_path / "over.yaml", scenes={"size": 55})
    job = PipelineJob(path, None, layers=(over,), settings=(("scenes.count", 9),))
    got = yaml.safe_load(print_pipeline(job))["scenes"]
    assert (got["count"], got["size"], got["style"]) == (9, 55, "alt")


def test_a_program_has_no_slices(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--slice is for sample stages"):
        run_command(Job("train", config(), tmp_path / "o", slice_of=(0, 2)))


def test_a_stage_may_be_named_like_the_folder_it_reads(
    tmp_path: Path, probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a KeyError, and a second run that reads its own output."""
    monkeypatch.chdir(tmp_path)
    sample_run(tmp_path / "second")
    tree = {"second": {"command": "filter", "inputs": {"run": "second"}}}
    path = write(tmp_path / "p.yaml", stages=tree)
    assert rows(run(path, tmp_path / "work")) == {"second": "done"}
    assert rows(run(path, tmp_path / "work")) == {"second": "no-op"}
