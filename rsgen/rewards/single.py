"""Rewards that look at one image at a time and remember nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError, RsgenError
from rsgen.rewards.base import FAILED, Bools, Floats, Made, Rated, Seen, State
from rsgen.rewards.places import SIDE

__all__ = ["PLACES", "VALUE", "PerImage"]

VALUE, PLACES = "value", "places"
LEAST_SEEN = 4  # images of which one at least must be seen: a reward of zeros teaches nothing
Look = Callable[[Made], dict[str, Floats]]


class PerImage:
    """Keeps to `Reward`: a function of a batch whose rows do not depend on each other.

    look: `Made` without broken images -> columns float64 [N], the value among them; a value of
    NaN does not apply, and counts 0. An image that it fails at is noted, and gets the least
    value of all (`combine`); it is tried one by one where a batch fails. `absent`: what images
    are counted as that the value does not apply to, or whose column `objects` is 0. `places`:
    whether the column PLACES [N, SIDE, SIDE] says where in an image its value came from.
    """

    def __init__(
        self,
        name: str,
        look: Look,
        columns: Sequence[str] = (),
        *,
        absent: str = "not applicable",
        objects: str | None = None,
        places: bool = False,
        notes: Sequence[str] = (),
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._look, self._columns = name, look, (VALUE, *columns)
        self._absent, self._objects, self._places = absent, objects, places
        self._notes, self._close = tuple(notes), close
        self._first_failure = ""

    @property
    def notes(self) -> tuple[str, ...]:
        if not self._first_failure:
            return self._notes
        return (*self._notes, f"{self._name}: could not look at an image: {self._first_failure}")

    def observe(self, made: Made) -> Seen:
        """A column of each number, NaN where it does not apply, and which images it failed at."""
        found: Seen = {name: np.full(len(made), np.nan) for name in self._columns}
        if self._places:
            found[PLACES] = np.zeros((len(made), SIDE, SIDE))
        found[FAILED] = np.zeros(len(made), dtype=bool)
        places = np.flatnonzero(~made.broken)
        if len(places):
            self._look_at(made, places, found)
        if len(places) >= LEAST_SEEN and found[FAILED][places].all():
            raise DataError(
                f"reward {self._name}: it failed at all {len(places)} images of a batch: "
                f"{self._first_failure}"
            )
        return found

    def _look_at(self, made: Made, places: npt.NDArray[np.intp], found: Seen) -> None:
        try:
            columns = self._look(made.chosen(places))
        except Exception as error:  # a scorer may be anyone's code: its failure is counted
            if isinstance(error, RsgenError) and not isinstance(error, DataError):
                raise
            if len(places) > 1:
                for place in places:
                    self._look_at(made, place[None], found)
                return
            message = error.message if isinstance(error, RsgenError) else str(error)
            self._first_failure = self._first_failure or f"{type(error).__name__}: {message}"
            found[FAILED][places] = True
            return
        wanted: dict[str, tuple[int, ...]] = dict.fromkeys(self._columns, ())
        if self._places:
            wanted[PLACES] = (SIDE, SIDE)
        for name, shape in wanted.items():
            values = np.asarray(columns[name], dtype=np.float64)
            if values.shape != (len(places), *shape):
                raise DataError(
                    f"reward {self._name}: {values.shape} values of {name} for {len(places)} images"
                )
            found[name][places] = values

    def rate(
        self,
        seen: Seen,
        readable: Bools,
        groups: npt.NDArray[np.int64],
        *,
        epoch: int,
        learn: bool,
    ) -> Rated:
        failed = (seen[FAILED].astype(bool) | np.isinf(seen[VALUE])) & readable
        looked = readable & ~failed
        terms = {
            name: np.where(looked, seen[name], np.nan) for name in self._columns if name != VALUE
        }
        value = np.where(looked, seen[VALUE], np.nan)
        absent = np.isnan(value) if self._objects is None else seen[self._objects] == 0
        noted = {"failed": failed, self._absent: looked & absent}
        where = seen[PLACES].astype(np.float64) if self._places else None
        return Rated(np.nan_to_num(value, nan=0.0), terms, noted, places=where)

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        """It remembers nothing."""

    def close(self) -> None:
        self._close()
