"""Templates are found by name, and the job scripts among them can be run."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from rsgen.errors import UsageError
from rsgen.shipped import shipped_files, shipped_text, what_it_is
from tests.unit.test_cli import Cli


def test_every_template_has_a_name_and_says_what_it_is() -> None:
    files = shipped_files()
    assert {"pipelines/quickstart", "jobs/nightly.sh", "jobs/cron.txt", "jobs/dvc"} <= set(files)
    assert not [name for name, path in files.items() if not what_it_is(path)]
    assert not [name for name in files if "__" in name]


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("quickstart", "pipelines/quickstart"),
        ("pipelines/quickstart.yaml", "pipelines/quickstart"),
        ("nightly.sh", "jobs/nightly.sh"),
        ("slurm-array", "jobs/slurm-array.sh"),
        ("remotesam", "workers/remotesam.py"),
        ("workers/detector.py", "workers/detector.py"),
    ],
)
def test_names(name: str, same: str) -> None:
    assert shipped_text(name) == shipped_text(same)


def test_a_wrong_name_is_told_the_near_one() -> None:
    with pytest.raises(UsageError) as caught:
        shipped_text("quikstart")
    assert caught.value.hint == "did you mean pipelines/quickstart?"


@pytest.mark.parametrize("name", [n for n in shipped_files() if n.endswith(".sh")])
def test_scripts_parse(name: str) -> None:
    text = shipped_text(name)
    shell = text.splitlines()[0].removeprefix("#!")
    done = subprocess.run([shell, "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_lists_and_prints(cli_here: Cli) -> None:
    assert "jobs/nightly.sh" in cli_here("templates").out
    assert cli_here("templates", "jobs/dvc").out == shipped_text("jobs/dvc")
    assert cli_here("templates", "--json").json["templates"]["jobs/cron.txt"]
    assert cli_here("templates", "nothing").code == 2


def test_the_commands_of_dvc_parse(cli_here: Cli) -> None:
    """Each reads folders that an earlier stage writes, and every option exists."""
    stages = yaml.safe_load(shipped_text("jobs/dvc"))["stages"]
    made = {"data"}
    for name, stage in stages.items():
        program, *words = stage["cmd"].split()
        outs = {o if isinstance(o, str) else next(iter(o)) for o in stage["outs"]}
        assert program == "rsgen" and outs == {name} == {words[words.index("--out") + 1]}
        assert {dep.partition("/")[0] for dep in stage["deps"]} <= made
        result = cli_here(*words, "--print-config")
        assert result.code == 0, result
        made.add(name)
