"""A model hub on this machine: enough of its API for a download, and what goes wrong there."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by ORG/NAME -> file name -> bytes; `asked` is every (path, Range) of a GET.

    alter: files that are sent with another byte in them. cut: a file's bytes after which the
    connection breaks, once.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    alter: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def add(self, location: str, folder: Path) -> None:
        self.repositories[location] = {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    def files_asked(self) -> list[str]:
        return [path.rpartition(f"{COMMIT}/")[2] for path, _ in self.asked if "/resolve/" in path]


def listing(location: str, files: dict[str, bytes]) -> dict[str, Any]:
    """What the API says of a repository; weights are LFS files, as on the real hub."""
    rows = []
    for name, data in files.items():
        head = f"blob {len(data)}\0".encode()
        row: dict[str, Any] = {
            "rfilename": name,
            "size": len(data),
            "blobId": hashlib.sha1(head + data).hexdigest(),
        }
        if not name.endswith((".json", ".txt", ".md")):
            digest = hashlib.sha256(data).hexdigest()
            row["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
        rows.append(row)
    return {"id": location, "sha": COMMIT, "siblings": rows, "tags": []}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append((path, self.headers.get("Range")))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        location = api[1] if api else file[1] if file else ""
        files = self.hub.repositories.get(location)
        if files is None:
            self._refuse("RepoNotFound", 404)
        elif api and (api[2] or "main") not in {"main", "v1", COMMIT}:
            self._refuse("RevisionNotFound", 404)
        elif api:
            self._send(json.dumps(listing(location, files)).encode(), "application/json")
        elif file and file[3] in files:
            self._file(file[3], files[file[3]])
        else:
            self._refuse("EntryNotFound", 404)

    def _refuse(self, code: str, status: int) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _file(self, name: str, data: bytes) -> None:
        if name in self.hub.alter:
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = self.hub.cut.pop(name, None)
        self.wfile.write(data[start:stop])
        if stop is not None:
            self.close_connection = True


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.url`, on a free port of this machine."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
