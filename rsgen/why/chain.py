"""From a run back to the data it began with, as far as the folders are still there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsgen.errors import RsgenError
from rsgen.records import Sample
from rsgen.request import RunInfo
from rsgen.store import run_folder

__all__ = ["Link", "chain_lines", "pool_masks", "upstream"]


@dataclass(frozen=True)
class Link:
    """An input: its name, where it lies, and its run where it is one. Depth 0 is the end."""

    depth: int
    name: str
    path: str
    run: RunInfo | None


def upstream(info: RunInfo) -> list[Link]:
    """The run and all that it was made of, depth first; a run that is shared comes once."""
    links = [Link(0, "", str(info.out), info)]
    seen = {info.out}

    def walk(of: RunInfo, depth: int) -> None:
        for ref in of.inputs:
            path = Path(ref.path)
            out = run_folder(path) if path.exists() else None
            found = None if out is None else _loaded(out)
            links.append(Link(depth, ref.name, ref.path, found))
            if found is not None and found.out not in seen:
                seen.add(found.out)
                walk(found, depth + 1)

    walk(info, 1)
    return links


def _loaded(out: Path) -> RunInfo | None:
    try:
        return RunInfo.load(out)
    except RsgenError:  # of another version: the chain ends here
        return None


def chain_lines(links: Sequence[Link]) -> Iterator[str]:
    """One indented line a link."""
    shown: set[str] = set()
    for link in links:
        text = f"{link.name}: " if link.name else ""
        if link.run is not None:
            text += f"{link.run.command} {link.path}{' (see above)' if link.path in shown else ''}"
        else:
            by_name = link.name in {"checkpoint", "base"}
            text += f"{link.path}{'' if by_name or Path(link.path).exists() else ' (gone)'}"
        shown.add(link.path)
        yield "  " * link.depth + text


def pool_masks(links: Sequence[Link], sample: Sample) -> dict[str, tuple[str, ...]]:
    """Mask id -> ids of the real samples that it was seen in, from the pools upstream."""
    origins = (instance.origin for instance in sample.layout.instances)
    wanted = sorted({o.removeprefix("pool:") for o in origins if o.startswith("pool:")})
    found: dict[str, tuple[str, ...]] = {}
    for link in links:
        if not wanted or link.run is None or not (link.run.out / "pool.parquet").is_file():
            continue
        import pyarrow.parquet as pq

        table = pq.read_table(
            link.run.out / "pool.parquet",
            columns=["id", "sources"],
            filters=[("id", "in", wanted)],
        )
        found |= {row["id"]: tuple(row["sources"]) for row in table.to_pylist()}
    return found
