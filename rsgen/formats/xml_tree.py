"""Small XML label files as trees of plain text; whatever refers outside or expands is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from rsgen.formats.common import Problem

__all__ = ["Node", "parse_xml"]

MAX_BYTES = 16 << 20
MAX_PIECE = 1 << 20  # a million attributes in one tag take a minute
MAX_DEPTH = 50
MAX_NODES = 300_000  # some 20,000 objects
DECLARED = re.compile(r"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
WIDE = re.compile(r"(?i)(utf|ucs)[-_]?(16|32)")


@dataclass(slots=True)
class Node:
    """An element: its tag in lower case, its own text without white space at the ends, its line."""

    tag: str
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def find(self, tag: str) -> Node | None:
        """The first child of a tag, not deeper: an object's parts have boxes of their own."""
        return next((child for child in self.children if child.tag == tag), None)

    def all(self, tag: str) -> Iterator[Node]:
        return (child for child in self.children if child.tag == tag)

    def value(self, tag: str) -> str | None:
        """A child's text, None where it is absent or empty."""
        child = self.find(tag)
        return None if child is None else (child.text or None)


class _Builder:
    """Collects what expat reports. Nothing is resolved: a document type is refused at once."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self._parser = parser
        self._open: list[Node] = []
        self._pieces: list[list[str]] = []
        self._count = 0
        self.root: Node | None = None
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse

    def _start(self, tag: str, _: object) -> None:
        self._count += 1
        if len(self._open) >= MAX_DEPTH:
            raise self._bad(f"elements nested over {MAX_DEPTH} deep", "export the labels anew")
        if self._count > MAX_NODES:
            raise self._bad(f"over {MAX_NODES} elements", "split it, one file an image")
        node = Node(tag.lower(), self._parser.CurrentLineNumber)
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        self._open.append(node)
        self._pieces.append([])

    def _end(self, _: str) -> None:
        self._open.pop().text = "".join(self._pieces.pop()).strip()

    def _text(self, text: str) -> None:
        if self._pieces:
            self._pieces[-1].append(text)

    def _refuse(self, *_: object) -> None:
        raise self._bad(
            "it declares a document type or entities, which label files have no use for",
            "remove the <!DOCTYPE ...> part",
        )

    def _bad(self, message: str, fix: str) -> Problem:
        return Problem("BadXml", f"line {self._parser.CurrentLineNumber}: {message}", fix)


def parse_xml(path: Path) -> Node:
    """The root element of a file in UTF-8, UTF-16 or the encoding that it declares.

    Raises:
        Problem: BadXml, NotUtf8 or Unreadable, with the line where there is one.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Problem("BadXml", f"over {MAX_BYTES >> 20} MB", "split it, one file an image")
        data = path.read_bytes()
    except OSError as error:
        raise Problem("Unreadable", f"{error.strerror}", "check the file's rights") from error
    text = _decoded(data).encode("utf-8", "surrogatepass")
    if max(map(len, text.split(b">"))) > MAX_PIECE:
        raise Problem("BadXml", "a tag or text of over a megabyte", "export the labels anew")
    parser = expat.ParserCreate(encoding="utf-8")  # whatever the text declares, it is decoded
    parser.buffer_text = True
    builder = _Builder(parser)
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise Problem(
            "BadXml",
            f"line {error.lineno}: not valid XML ({reason}, column {error.offset + 1})",
            "the file may be cut short: copy or export it anew",
        ) from error
    finally:  # parser and builder hold each other
        parser.StartElementHandler = parser.EndElementHandler = None
        parser.CharacterDataHandler = parser.StartDoctypeDeclHandler = None
        parser.EntityDeclHandler = None
    if builder.root is None:  # expat reports an empty text itself
        raise Problem("BadXml", "no element", "export the labels anew")
    return builder.root


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _decode(data, "utf-16")
    declared = DECLARED.match(data[:200].decode("ascii", "ignore"))
    name = declared.group(1) if declared and not data.startswith(b"\xef\xbb\xbf") else "utf-8"
    # A text that can be read this far by single bytes is no UTF-16, whatever it says.
    return _decode(data, "utf-8-sig" if name.lower() == "utf-8" or WIDE.match(name) else name)


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        kind = "NotUtf8" if encoding.startswith("utf-8") else "BadXml"
        name = encoding.removesuffix("-sig").upper()
        raise Problem(
            kind, f"byte {error.start} in line {line} is not {name}", "save it as UTF-8"
        ) from error
    except (LookupError, ValueError) as error:
        raise Problem("BadXml", f"unknown encoding {encoding!r}", "save it as UTF-8") from error
