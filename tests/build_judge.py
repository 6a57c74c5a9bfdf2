"""A judge of the real classes with random weights, small enough to make in a test."""

from __future__ import annotations

from pathlib import Path

import torch

from rsgen.judge.calibration import Calibration
from rsgen.judge.decoding import ClassHabits
from rsgen.judge.model import ROLES, Judge, JudgeCard, Role
from rsgen.judge.network import JudgeNetwork, NetworkShape
from rsgen.records import ClassTable
from tests.build import CLASSES


def small_judge(
    role: Role = "evaluation", classes: ClassTable = CLASSES, *, seed: int = 0, side: int = 64
) -> Judge:
    """Thing classes of the table are found turned and headed, stuff classes are named."""
    things = [entry for entry in classes.classes if entry.kind != "stuff"]
    stuff = tuple(entry.name for entry in classes.classes if entry.kind == "stuff")
    shape = NetworkShape(len(things), len(stuff), widths=(8, 8, 8, 8, 8), neck=8, fine=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = JudgeNetwork(shape)
    habits = tuple(ClassHabits(entry.name, True, not entry.symmetric) for entry in things)
    card = JudgeCard(role, classes, shape, habits, stuff, Calibration(), 0.5, "f" * 32, side)
    return Judge(network, card)


def save_judges(folder: Path, classes: ClassTable = CLASSES) -> Path:
    """Both judges, as train-judge leaves them in OUT."""
    for role, name in ROLES.items():
        small_judge(role, classes).save(folder / name)
    return folder
