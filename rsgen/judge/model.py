"""A trained judge: its network with class table and calibration, as a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rsgen.detections import Detections
from rsgen.errors import DataError, UsageError
from rsgen.images import Pixels, sha256_file
from rsgen.judge.calibration import Calibration
from rsgen.judge.decoding import ClassHabits, decode
from rsgen.judge.network import (
    COARSEST,
    JudgeNetwork,
    Maps,
    NetworkShape,
    in_channels_last,
    to_input,
)
from rsgen.judge.targets import LEAST_SEEN, Canvas, rows_of, shares_inside
from rsgen.models.weight_files import share_weights
from rsgen.records import ClassTable

__all__ = [
    "ROLES",
    "Judge",
    "JudgeCard",
    "Role",
    "judge_card",
    "judge_folder",
    "judge_hash",
    "load_judge",
]

Role = Literal["reward", "evaluation"]
ROLES: dict[Role, str] = {"reward": "judge_a", "evaluation": "judge_b"}
SCHEMA = 1
LEAST_SCORE = 0.05
WEIGHTS, CARD = "model.safetensors", "judge.json"


@dataclass(frozen=True)
class JudgeCard:
    """What stands beside the weights."""

    role: Role
    classes: ClassTable
    shape: NetworkShape
    habits: tuple[ClassHabits, ...]
    stuff: tuple[str, ...]
    calibration: Calibration
    threshold: float  # calibrated score above which a detection counts as found
    run: str
    side: int

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "role": self.role,
            "classes": self.classes.to_json(),
            "shape": self.shape.to_json(),
            "habits": [
                {"name": h.name, "turned": h.turned, "headed": h.headed, "objects": h.objects}
                for h in self.habits
            ],
            "stuff": list(self.stuff),
            "calibration": self.calibration.to_json(),
            "threshold": self.threshold,
            "run": self.run,
            "side": self.side,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> JudgeCard:
        return cls(
            row["role"],
            ClassTable.from_json(row["classes"]),
            NetworkShape.from_json(row["shape"]),
            tuple(
                ClassHabits(h["name"], h["turned"], h["headed"], h.get("objects", 1))
                for h in row["habits"]
            ),
            tuple(row["stuff"]),
            Calibration.from_json(row["calibration"]),
            float(row["threshold"]),
            str(row["run"]),
            int(row["side"]),
        )


class Judge:
    """Finds objects, answers questions about given boxes, and names the ground.

    All methods take images of one size, uint8 [N, H, W, 3] RGB; they are padded by their
    border to multiples of 32, and the results are in the given frame.
    """

    def __init__(
        self, network: JudgeNetwork, card: JudgeCard, device: str | torch.device = "cpu"
    ) -> None:
        self.card = card
        self.device = torch.device(device)
        self.network = in_channels_last(network.to(self.device))
        self.network.eval()

    @property
    def classes(self) -> ClassTable:
        return self.card.classes

    @property
    def known(self) -> frozenset[str]:
        """The thing classes that it has learned from at least one object of."""
        return frozenset(h.name for h in self.card.habits if h.objects)

    @torch.no_grad()
    def maps(self, images: Pixels) -> Maps:
        """The network's outputs; cells of the padding are included."""
        height, width = images.shape[1:3]
        x = to_input(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
        right, bottom = -width % COARSEST, -height % COARSEST
        if right or bottom:
            x = functional.pad(x, (0, right, 0, bottom), mode="replicate")
        found: Maps = self.network(x.contiguous(memory_format=torch.channels_last))
        return found

    def detect(self, images: Pixels) -> list[Detections]:
        """Objects with calibrated scores, best first; those wholly in the padding are dropped."""
        height, width = images.shape[1:3]
        return self.detect_in(self.maps(images), (height, width))

    def detect_in(self, maps: Maps, size: tuple[int, ...]) -> list[Detections]:
        """The same from the maps of images of (height, width)."""
        return [self._calibrated(d, size[1], size[0]) for d in self.raw(maps)]

    def raw(self, maps: Maps) -> list[Detections]:
        """Objects with the network's own scores."""
        return decode(maps, self.card.habits, LEAST_SCORE)

    def inside(self, found: Detections, width: int, height: int) -> Detections:
        """Those that lie on the image at least in part, not in its padding alone."""
        canvas = Canvas(width, height)
        return found.chosen(shares_inside(rows_of(found.quads), canvas) >= LEAST_SEEN / 2)

    def _calibrated(self, found: Detections, width: int, height: int) -> Detections:
        kept = self.inside(found, width, height)
        return replace(kept, scores=self.card.calibration.scores(kept.scores))

    @torch.no_grad()
    def verify(
        self,
        maps: Maps,
        boxes: npt.NDArray[np.float32],
        owner: Sequence[int],
        labels: Sequence[str],
    ) -> npt.NDArray[np.float64]:
        """Probabilities of `ANSWERS` for given boxes, float64 [B, 5]; NaN for unknown classes.

        boxes: float32 [B, 5], as `Objects.boxes`. owner: image of each. labels: its class.
        """
        logits = self.question_logits(maps, boxes, owner, labels)
        scaled = logits / self.card.calibration.temperature
        odds = np.exp(scaled - scaled.max(axis=1, keepdims=True)) if len(scaled) else scaled
        return odds / odds.sum(axis=1, keepdims=True) if len(odds) else odds

    @torch.no_grad()
    def question_logits(
        self,
        maps: Maps,
        boxes: npt.NDArray[np.float32],
        owner: Sequence[int],
        labels: Sequence[str],
    ) -> npt.NDArray[np.float64]:
        """Raw answers, float64 [B, 5]; NaN rows for classes that the judge does not know."""
        position = {h.name: k for k, h in enumerate(self.card.habits) if h.objects}
        entries = [self.classes.find(label) for label in labels]
        known = np.array([e is not None and e.name in position for e in entries], dtype=bool)
        answers = np.full((len(boxes), 5), np.nan)
        if known.any():
            things = [position[e.name] for e, k in zip(entries, known, strict=True) if e and k]
            found = self.network.judge_boxes(
                maps.features,
                self._tensor(boxes[known]),
                self._tensor(np.asarray(owner, dtype=np.int64)[known]),
                self._tensor(np.asarray(things, dtype=np.int64)),
            )
            answers[known] = found.double().cpu().numpy()
        return answers

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    @torch.no_grad()
    def ground(self, maps: Maps, width: int, height: int) -> npt.NDArray[np.int64]:
        """The stuff class of each pixel, int64 [N, H, W]: 0 none, then as `card.stuff`."""
        large = functional.interpolate(maps.stuff.float(), scale_factor=4.0, mode="bilinear")
        return large.argmax(dim=1)[:, :height, :width].cpu().numpy()

    @torch.no_grad()
    def features(self, images: Pixels) -> npt.NDArray[np.float32]:
        """One vector an image, float32 [N, C]: means and spreads of the feature map."""
        height, width = images.shape[1:3]
        found = self.maps(images).features.float()[:, :, : -(-height // 4), : -(-width // 4)]
        both = torch.cat([found.mean(dim=(2, 3)), found.std(dim=(2, 3))], dim=1)
        return np.asarray(both.cpu().numpy(), dtype=np.float32)

    def save(self, folder: Path) -> Path:
        """Write weights and card."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        share_weights(folder)
        text = json.dumps(self.card.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / CARD).write_text(text + "\n", encoding="utf-8")
        return folder


def judge_folder(path: Path, role: Role, *, force: bool = False) -> Path:
    """The folder of the judge for a purpose: a train-judge OUT, or one judge's folder.

    Raises:
        DataError: there is none. UsageError: it was trained for the other purpose.
    """
    folder = path if (path / CARD).is_file() else path / ROLES[role]
    if not (folder / CARD).is_file():
        raise DataError(
            f"{path} holds no judge for {role} ({ROLES[role]}/{CARD})",
            hint="train them with: rsgen train-judge RUN --out JUDGES",
        )
    found = _card(folder).role
    if found != role and not force:
        raise UsageError(
            f"{folder} is the judge for {found}, asked for {role}: a judge that was optimised "
            "against cannot measure",
            hint="give the train-judge folder, which holds both, or force it",
        )
    return folder


def judge_card(path: Path, role: Role) -> JudgeCard:
    """The card of the judge for a purpose, without its weights; errors as of `judge_folder`."""
    return _card(judge_folder(path, role))


def _card(folder: Path) -> JudgeCard:
    try:
        return JudgeCard.from_json(json.loads((folder / CARD).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / CARD}: no judge card ({error!r})", hint="train the judges again"
        ) from error


def load_judge(
    path: Path, role: Role, *, device: str | torch.device = "cpu", force: bool = False
) -> Judge:
    """The judge for a purpose; `force` takes one that was made for the other.

    Raises:
        DataError, UsageError: see `judge_folder`; weights that do not fit their card.
    """
    folder = judge_folder(path, role, force=force)
    card = _card(folder)
    network = JudgeNetwork(card.shape)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{folder / WEIGHTS}: weights that do not fit their card ({error})",
            hint="train the judges again",
        ) from error
    return Judge(network, card, device)


def judge_hash(path: Path, role: Role, *, force: bool = False) -> str:
    """What identifies a judge: its weights and card."""
    folder = judge_folder(path, role, force=force)
    return f"{sha256_file(folder / WEIGHTS)[:32]}{sha256_file(folder / CARD)[:8]}"
