"""What several modules learn from and start from; read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.build import sample_run
from tests.build_models import save_model
from tests.build_training import splits


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    return save_model(tmp_path_factory.mktemp("base") / "model").path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training samples of 64 px."""
    return sample_run(tmp_path_factory.mktemp("run"), splits(6)).path
