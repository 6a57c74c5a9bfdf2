"""One thread, no network, a clean environment and a scratch folder for every test."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch, albumentations or matplotlib can be imported by anything below.
FIXED = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib")),
}
os.environ.update(FIXED)
for _name in [name for name in os.environ if name.startswith("RSGEN_")]:
    del os.environ[_name]

import json  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Any  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# The same examples every time, so that a change is judged by what it changed; new examples are
# looked for on purpose, with `pytest --hypothesis-profile=search`.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fixed")

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class NetworkBlocked(BaseException):
    """A test reached for the network; no `except Exception` may swallow it."""


def _guard(original: Callable[..., Any], allow_loopback: bool) -> Callable[..., Any]:
    def connect(self: socket.socket, address: Any, *rest: Any) -> Any:
        unix = getattr(socket, "AF_UNIX", None)
        local = allow_loopback and isinstance(address, tuple) and address[0] in LOOPBACK
        if self.family != unix and not local:
            raise NetworkBlocked(f"a test tried to connect to {address!r}")
        return original(self, address, *rest)

    return connect


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "loopback: may open sockets to this machine (torchrun)")


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = request.node.get_closest_marker("loopback") is not None
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)
        monkeypatch.setattr(socket.socket, name, _guard(original, allowed))


@pytest.fixture(autouse=True)
def _scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths land in the test's own folder, never in the checkout."""
    monkeypatch.chdir(tmp_path)


@dataclass(frozen=True)
class Result:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class CommandLine:
    """The real CLI in a process of its own, with a bare environment."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        kept = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL", "TMPDIR") if k in os.environ}
        # A proxy that refuses: a subprocess that tries the network fails at once.
        dead = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
        return {**kept, **FIXED, **dead, "HOME": str(self._home), **(extra or {})}

    def __call__(
        self,
        *arguments: object,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 240,
    ) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "rsgen_cli", *map(str, arguments)],
            env=self.environment(env),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command and return at once; the test ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "rsgen_cli", *map(str, arguments)],
            env=self.environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def stop_when(
        self,
        ready: Callable[[], bool],
        *arguments: object,
        number: signal.Signals,
        timeout: float = 120,
    ) -> Result:
        """Start a command, send one signal as soon as `ready()`, and wait for its end."""
        process = self.start(*arguments)
        deadline = time.monotonic() + timeout
        while process.poll() is None and not ready():
            if time.monotonic() > deadline:
                process.kill()
                out, err = process.communicate()
                raise TimeoutError(f"never ready; {Result(-1, out, err)}")
            time.sleep(0.005)
        process.send_signal(number)
        out, err = process.communicate(timeout=timeout)
        return Result(process.returncode, out, err)


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Run the CLI as a user would: `cli("scenes", "--out", folder)`."""
    return CommandLine(tmp_path_factory.mktemp("home"))


@pytest.fixture
def cli_here() -> Iterator[Callable[..., Result]]:
    """The same app in this process: fast, for everything that needs no process of its own."""
    from rsgen_cli.app import app
    from typer.testing import CliRunner

    def call(*arguments: object, env: dict[str, str] | None = None) -> Result:
        done = CliRunner().invoke(app, [str(a) for a in arguments], env=env)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    yield call
