"""The files that come with rsgen: pipelines, job scripts, workers, class tables, layouts."""

from __future__ import annotations

from pathlib import Path

from rsgen.config import templates_root
from rsgen.errors import UsageError
from rsgen.hints import near_name

__all__ = ["shipped_files", "shipped_text", "what_it_is"]


def shipped_files() -> dict[str, Path]:
    """Name -> file: `pipelines/quickstart`, `jobs/nightly.sh`; YAML files lose their suffix."""
    root = templates_root()
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and path.suffix != ".pyc" and path.name != "__init__.py":
            found[(name.with_suffix("") if name.suffix == ".yaml" else name).as_posix()] = path
    return found


def shipped_text(name: str) -> str:
    """A file by its name, or by the last part of it where only one has it.

    Raises:
        UsageError: no such file, or several; the nearest or all of them are named.
    """
    files = shipped_files()
    wanted = name.removesuffix(".yaml")
    found = [wanted] if wanted in files else [n for n in files if _may_be_called(n, wanted)]
    if len(found) == 1:
        return files[found[0]].read_text(encoding="utf-8")
    if found:
        raise UsageError(f"{name}: several templates have that name", hint=", ".join(found))
    last = {n.rpartition("/")[2]: n for n in files}
    near = near_name(name, files) or last.get(near_name(name, last) or "")
    raise UsageError(
        f"{name}: no such template",
        hint=f"did you mean {near}?" if near else "rsgen templates lists them",
    )


def _may_be_called(name: str, wanted: str) -> bool:
    last = name.rpartition("/")[2]
    return wanted in {last, last.partition(".")[0]}


def what_it_is(path: Path) -> str:
    """The first comment of a file that says something; nothing where there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.lstrip("#").strip()
        if line.startswith("#") and text and not line.startswith("#!"):
            return text
        if not line.startswith("#"):
            break
    return ""
