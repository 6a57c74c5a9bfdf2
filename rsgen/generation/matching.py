"""Scenes by other names: labels of an image and masks of it, told to belong together."""

from __future__ import annotations

from rsgen.pool import MaskPool
from rsgen.splits import scene_key

__all__ = ["PoolScenes"]


class PoolScenes:
    """The scenes that a pool's masks were seen in, found under other names of theirs.

    Labels read without images, or beside other data sets, call a scene otherwise: `p0` and
    `A/images/p0.png` are the pool's `images/p0.png`.
    """

    def __init__(self, pool: MaskPool) -> None:
        self._by_key: dict[str, set[str]] = {}
        self._by_end: dict[str, set[str]] = {}
        column = pool.table.column("sources").to_pylist()
        for scene in {source.split("#", 1)[0] for row in column for source in row}:
            key = scene_key(scene)
            self._by_key.setdefault(key, set()).add(scene)
            for end in _ends(key):
                self._by_end.setdefault(end, set()).add(scene)

    def names(self, scene: str) -> list[str]:
        """What the pool calls a scene; several where its name does not tell."""
        key = scene_key(scene)
        found = self._by_key.get(key)
        if found is None:
            found = set().union(
                self._by_end.get(key, ()), *(self._by_key.get(end, ()) for end in _ends(key))
            )
        return sorted(found)


def _ends(key: str) -> list[str]:
    """`a/b/c` -> `b/c`, `c`."""
    parts = key.split("/")
    return ["/".join(parts[k:]) for k in range(1, len(parts))]
