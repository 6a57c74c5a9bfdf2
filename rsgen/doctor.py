"""`doctor`: what is installed, which device, which models are reachable, what to type."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rsgen import __version__
from rsgen.models.fetch import is_offline

__all__ = ["Check", "Report", "diagnose"]

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "albumentations",
    "opencv-python-headless",
    "rasterio",
    "shapely",
    "pycocotools",
    "pyarrow",
)
MIN_FREE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Check:
    """One finding; `fix` says what to type when it is not ok."""

    name: str
    ok: bool
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Report:
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0, or 4 when something needed is missing."""
        return 0 if all(check.ok for check in self.checks) else 4

    def to_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "exit_code": self.exit_code,
            "checks": [
                {"name": c.name, "ok": c.ok, "found": c.found, "fix": c.fix} for c in self.checks
            ],
        }


def diagnose(folder: Path) -> Report:
    """Check this machine and the given working folder."""
    checks = [_python(), *map(_package, PACKAGES), _device(), _torchvision()]
    checks += [_embedded_model(), _hub(), _disk(folder)]
    return Report(tuple(checks))


def _python() -> Check:
    found = f"rsgen {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    return Check("machine", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install {name}")


def _guard(name: str, look: Callable[[], Check]) -> Check:
    """A check of a library that may itself fail to load."""
    try:
        return look()
    except (ImportError, OSError, RuntimeError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}", f"reinstall {name}")


def _device() -> Check:
    def look() -> Check:
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            name = torch.cuda.get_device_name()
            text = f"cuda: {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            return Check("device", True, text)
        return Check("device", True, "cpu (no CUDA device is visible)")

    return _guard("torch", look)


def _torchvision() -> Check:
    """Present but unusable (its operators do not match torch) it breaks other libraries."""
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return Check("torchvision", True, "absent, as it should be")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        return Check("torchvision", False, f"{found}, broken: {error}", "pip uninstall torchvision")
    return Check("torchvision", True, f"{found} (not used by rsgen)")


def _embedded_model() -> Check:
    from rsgen.models.base import EMBEDDED

    if (EMBEDDED / "model_index.json").is_file():
        size = sum(p.stat().st_size for p in EMBEDDED.rglob("*") if p.is_file())
        return Check("model tiny", True, f"embedded, {size / 2**20:.1f} MiB")
    return Check("model tiny", False, "its weights are not in this installation", "reinstall rsgen")


def _hub() -> Check:
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    models = sorted(p.name[8:].replace("--", "/") for p in cache.glob("models--*"))
    offline = ", offline mode" if is_offline() else ""
    found = f"{len(models)} models in the local cache{offline}"
    if models:
        found += ": " + ", ".join(models[:6])
    return Check("hub models", True, found)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free in {folder}"
    return Check("disk", free >= MIN_FREE_BYTES, text, "free some space, or work elsewhere")
