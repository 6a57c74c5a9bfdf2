"""What a user installs: everything in the wheel, honest __all__, one version."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import rsgen

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "rsgen").rglob("*.py"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel built from a copy of the sources, so that no build/ is left behind."""
    copy = tmp_path_factory.mktemp("sources")
    for folder in ("rsgen", "cli", "templates"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(copy / "dist")],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (copy / "dist").glob("*.whl")
    assert path.name.startswith(f"rsgen-{rsgen.__version__}-py3")
    return set(zipfile.ZipFile(path).namelist())


def test_every_module_is_in_the_wheel(wheel: set[str]) -> None:
    """Catches a package missing from `packages=`: it imports in editable mode only."""
    missing = [str(p.relative_to(ROOT)) for p in SOURCES]
    missing += [f"rsgen_cli/{p.name}" for p in (ROOT / "cli").glob("*.py")]
    assert not [name for name in missing if name not in wheel]


def test_every_template_and_weight_is_in_the_wheel(wheel: set[str]) -> None:
    """Catches package-data patterns that miss a new suffix or folder."""
    weights = ROOT / "rsgen" / "models" / "weights"
    wanted = [p.relative_to(ROOT).as_posix() for p in weights.rglob("*") if p.is_file()]
    wanted += [
        "rsgen_templates/" + p.relative_to(ROOT / "templates").as_posix()
        for p in (ROOT / "templates").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    ]
    assert not [name for name in wanted if name not in wheel]


def test_nothing_else_lands_in_site_packages(wheel: set[str]) -> None:
    """Catches a stray top-level `cli`, `tests` or `templates`."""
    tops = {name.split("/")[0] for name in wheel}
    info = f"rsgen-{rsgen.__version__}.dist-info"
    assert tops == {"rsgen", "rsgen_cli", "rsgen_templates", info}
    assert any(name.endswith("LICENSE") for name in wheel)
    assert not [n for n in wheel if n.endswith((".pyc", ".pt", ".bin", ".ckpt", ".pkl"))]


def test_embedded_weights_are_small_safetensors() -> None:
    files = list((ROOT / "rsgen" / "models").rglob("*.safetensors"))
    assert sum(p.stat().st_size for p in files) <= 24 * 2**20
    assert all(p.stat().st_size <= 16 * 2**20 for p in files)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_all_names_exist(path: Path) -> None:
    """Catches an __all__ entry that was renamed or is private."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    text = path.read_text(encoding="utf-8")
    if "__all__" not in text:
        assert path.name == "__init__.py", f"{name} says what it offers by __all__"
        return
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.__all__ names {public}"
        assert not public.startswith("_") or public == "__version__"


def test_the_version_has_one_place_and_a_changelog_entry() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None and newest[1] == rsgen.__version__
    spelled = [
        path.name
        for folder in ("rsgen", "cli", "templates")
        for path in (ROOT / folder).rglob("*.py")
        if f'"{rsgen.__version__}"' in path.read_text(encoding="utf-8")
    ]
    assert spelled == ["__init__.py"]


def test_pins_and_ranges_are_where_they_belong() -> None:
    """Ranges in pyproject, the pin in constraints.txt, torchvision nowhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"]
    assert not [line for line in needed if "==" in line]
    assert "torch==" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    everything = [*needed, *(r for rows in project["optional-dependencies"].values() for r in rows)]
    assert not [line for line in everything if line.startswith("torchvision")]


DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def test_every_library_is_asked_for_and_pinned() -> None:
    """Catches an import that works only because some other library brings it along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["vector"]]
    asked = {_plain(re.split(r"[<>=]", line)[0]) for line in lines}
    pinned = {
        _plain(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    }
    used = set()
    for path in [*SOURCES, *(ROOT / "cli").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                used.add(node.module.split(".")[0])
    used -= {*sys.stdlib_module_names, "rsgen", "rsgen_cli", "rsgen_templates"}
    wanted = {_plain(DISTRIBUTIONS.get(name, name)) for name in used}
    assert wanted == asked, sorted(wanted ^ asked)
    assert not asked - pinned


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def test_no_machine_path_or_secret_in_the_sources() -> None:
    """Catches absolute paths of the author's machine in shipped files."""
    pattern = re.compile(r"/(home|root|Users|tmp)/\w")
    files = [
        p
        for folder in ("rsgen", "cli", "templates", "benchmarks")
        for p in (ROOT / folder).rglob("*")
        if p.suffix in {".py", ".yaml", ".md", ".json", ".txt"}
    ]
    found = [
        f"{p.relative_to(ROOT)}: {match[0]}"
        for p in files
        if (match := pattern.search(p.read_text(encoding="utf-8")))
    ]
    assert not found
