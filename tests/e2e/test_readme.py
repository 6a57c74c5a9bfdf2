"""Lines of the README that need what a test has not: they are parsed and run as far as they go."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.build import instance, layout, sample, sample_run
from tests.conftest import Result

README = Path(__file__).parents[2] / "README.md"


def shell_lines(text: str) -> list[str]:
    """The commands of the fenced blocks, continued lines joined, comments left out."""
    blocks = text.split("```sh\n")[1:]
    joined = "\n".join(block.split("```")[0] for block in blocks).replace("\\\n", " ")
    return [" ".join(shlex.split(line, comments=True)) for line in joined.splitlines()]


def test_the_line_for_earthsynth(cli_here: Callable[..., Result], tmp_path: Path) -> None:
    """Catches a line that is refused before its weights are asked for, and half of the models."""
    (line,) = [x for x in shell_lines(README.read_text(encoding="utf-8")) if "EarthSynth/" in x]
    program, *words = line.split()
    assert program == "rsgen" and words[0] == "generate"
    labels = (instance("ship", size=(512, 512)), instance("plane", 300, 300, size=(512, 512)))
    sample_run(tmp_path / "masks", [sample("a.png", layout(labels, (512, 512)))])
    result = cli_here(*words, "--dry-run")
    assert result.code == 4, str(result)
    assert "hub:jaychempan/EarthSynth/controlnet" in result.err  # repository and subfolder
    assert "its base: model hub:stable-diffusion-v1-5/stable-diffusion-v1-5" in result.err
    assert "rsgen doctor --fetch hub:jaychempan/EarthSynth/controlnet" in result.err
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("missing", ["condition", "classes"])
def test_each_setting_of_that_line_is_needed(
    missing: str, cli_here: Callable[..., Result], tmp_path: Path
) -> None:
    """Catches a README that tells more than is needed, or less."""
    from tests.build_published import base, controlnet

    controlnet().save_pretrained(tmp_path / "EarthSynth" / "controlnet")
    base(tmp_path / "sd15")
    labels = (instance("ship", size=(64, 64)),)
    sample_run(tmp_path / "masks", [sample("a.png", layout(labels, (64, 64)))])
    (line,) = [x for x in shell_lines(README.read_text(encoding="utf-8")) if "EarthSynth/" in x]
    words = line.split()[1:]
    words[1] = "EarthSynth"
    words[words.index("--base") + 1] = str(tmp_path / "sd15")
    result = cli_here(*words, "--dry-run")
    assert result.code == 0 and "A satellite image of {classes}" in result.out, str(result)
    at = next(k for k, word in enumerate(words) if word.startswith(f"generate.{missing}="))
    result = cli_here(*words[: at - 1], *words[at + 1 :], "--dry-run")
    assert result.code == 2 and f"-s generate.{missing}=" in result.err, str(result)
