"""Doctor: what is missing is said with the line to type."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from rsgen import doctor
from rsgen.doctor import Check, Report, diagnose


def test_this_machine_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "hf" / "hub" / "models--org--name").mkdir(parents=True)
    report = diagnose(tmp_path)
    found = {check.name: check for check in report.checks}
    assert found["machine"].ok and found["torch"].ok and found["device"].ok
    assert "org/name" in found["hub models"].found and "offline" in found["hub models"].found
    assert found["torchvision"].ok
    assert all(check.fix for check in report.checks if not check.ok)
    assert json.loads(json.dumps(report.to_json()))["exit_code"] == report.exit_code


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 4)])
def test_something_missing_is_exit_4(ok: bool, code: int) -> None:
    assert Report((Check("a", True, "x"), Check("b", ok, "y", "pip install b"))).exit_code == code


def test_a_missing_package_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", absent)
    check = doctor._package("rasterio")
    assert not check.ok and check.fix == "pip install rasterio"


def test_a_broken_library_is_a_finding_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches torchvision whose operators do not match torch (RuntimeError at import)."""

    def broken(name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    monkeypatch.setattr(doctor, "version", lambda name: "0.28.0")
    assert not doctor._device().ok
    vision = doctor._torchvision()
    assert not vision.ok and vision.fix == "pip uninstall torchvision"


def test_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 2**70)
    assert not doctor._disk(tmp_path).ok
