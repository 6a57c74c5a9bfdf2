"""Which classes of the layouts a judge has never seen: it cannot say anything of these."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from rsgen.errors import UsageError

__all__ = ["unseen_by_judge"]


def unseen_by_judge(
    path: Path, role: Literal["reward", "evaluation"], asked: Iterable[str]
) -> tuple[str, ...]:
    """Those of the classes `asked` for that the judge has learned from no object of; in order.

    A name counts as known under its aliases in the judge's class table. Loads no weights.

    Raises:
        UsageError: it knows none of them. Errors of `judge_folder`.
    """
    from rsgen.judge.model import judge_card

    card = judge_card(path, role)
    known = {habits.name for habits in card.habits if habits.objects}
    wanted = sorted(set(asked))
    entries = {name: card.classes.find(name) for name in wanted}
    unseen = tuple(name for name, e in entries.items() if e is None or e.name not in known)
    if wanted and len(unseen) == len(wanted):
        raise UsageError(
            f"the judge for {role} in {path} knows {', '.join(sorted(known)) or 'no class'}, and "
            f"the layouts ask for {', '.join(wanted)}: it can see nothing of what they show",
            hint="give a judge of these classes (rsgen train-judge RUN --out JUDGES), or tune "
            "without --judge by a reward that needs none, as remask",
        )
    return unseen
