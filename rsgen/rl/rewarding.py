"""Rewards of an epoch: images are decoded and looked at while the next batch is painted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from rsgen.images import Pixels
from rsgen.records import Sample
from rsgen.rewards.base import Made, Seen
from rsgen.rewards.combine import Rewards, join_seen
from rsgen.rl.policy import Policy

__all__ = ["Looking", "gathered", "group_diversity", "in_order"]

THUMBNAIL = "thumbnail"  # beside what the rewards saw, for `group_diversity`
SIDE = 16


class Looking:
    """What the rewards see of one epoch's batches, in one thread and in order."""

    def __init__(self, policy: Policy, rewards: Rewards) -> None:
        self._policy, self._rewards = policy, rewards
        self._thread = ThreadPoolExecutor(1, initializer=_on_device, initargs=(policy.device,))
        self._waiting: list[Future[Seen]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, latents: Tensor, samples: Sequence[Sample], groups: Sequence[int]) -> None:
        """Decode a batch of final latents and look at it, later."""

        def look() -> Seen:
            made = Made.of(self._policy.pictures(latents), samples, groups)
            return {**self._rewards.observe(made), THUMBNAIL: _thumbnails(made.images)}

        self._waiting.append(self._thread.submit(look))

    def seen(self) -> Seen:
        """The rows of all batches of this rank; waits for them."""
        return join_seen([future.result() for future in self._waiting])


def _on_device(device: torch.device) -> None:
    """The current GPU is a matter of each thread, and the first one's where nobody chose."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _thumbnails(images: Pixels) -> npt.NDArray[np.float32]:
    small = [cv2.resize(i, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for i in images]
    return np.stack(small).astype(np.float32).reshape(len(images), -1)


def gathered(seen: Seen, batches: int, accelerator: Accelerator) -> Seen:
    """The rows of all ranks in the order that one rank with the whole batch would have.

    Every rank has its share of each of so many batches, in order.
    """
    if accelerator.num_processes == 1:
        return seen
    return {
        name: in_order(torch.from_numpy(np.ascontiguousarray(rows)), batches, accelerator).numpy()
        for name, rows in sorted(seen.items())
    }


def in_order(rows: Tensor, batches: int, accelerator: Accelerator) -> Tensor:
    """Rows [batches * share, ...] of all ranks, on the CPU, as one rank would have them."""
    if accelerator.num_processes == 1:
        return rows.cpu()
    # not every backend sends every type
    sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    every = accelerator.gather(sent.contiguous().to(accelerator.device)).cpu().to(rows.dtype)
    by_rank = every.reshape(accelerator.num_processes, batches, -1, *rows.shape[1:])
    found: Tensor = by_rank.transpose(0, 1).reshape(-1, *rows.shape[1:]).contiguous()
    return found


def group_diversity(thumbnails: npt.NDArray[np.float32], groups: Sequence[int]) -> float:
    """Mean distance between images of one layout, in grey levels; 0 where each has one alone."""
    distances = []
    numbers = np.asarray(groups)
    for number in np.unique(numbers):
        rows = thumbnails[numbers == number]
        apart = np.sqrt(((rows[:, None] - rows[None]) ** 2).mean(axis=2))
        distances += apart[np.triu_indices(len(rows), 1)].tolist()
    return float(np.mean(distances)) if distances else 0.0
