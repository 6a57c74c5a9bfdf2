"""Do generated images look like real ones? Distances of feature distributions at equal N.

Frechet distance (FID's formula), kernel distance (KID's) and Gaussian-kernel distance (CMMD's); the
formulas and their sources are in `distances`. By default the features are the judge's own, and the
figures are called FD-judge, KD-judge and MMD-judge: only Inception's features give FID and KID
(`rsgen doctor --convert-inception` makes them readable), and only CLIP's give CMMD. Pinned here:

- N images a side: all generated ones, at most half of the real ones; ten draws by the seed, the
  mean and the spread of them. The floor is the distance between two disjoint halves of the real
  images at the same N. Covariances and both kernel distances are unbiased estimates; the Frechet
  distance has none and falls with N, so only its floor tells what it means;
- the judge sees whole images at their own size, others a bicubic resize of both edges to the
  network's side; every image by itself, numbers in float64;
- under 200 images a side a warning stands beside the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rsgen.errors import DataError
from rsgen.evaluation.base import FEW, CellResult, Evaluation, Images, figure
from rsgen.evaluation.distances import Features, cmmd, frechet, kernel_distance
from rsgen.evaluation.features import FeatureNetwork, open_features

__all__ = ["CELL", "FidelityCell", "both_features", "draws", "few", "halves", "side_of"]

LEAST = 8
REPEATS = 10


class FidelityCell:
    """Frechet, kernel and Gaussian-kernel distances, with the real images' own floor."""

    name = "fidelity"
    title = "fidelity: do the images look like real ones"

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        network = open_features(evaluation)
        made, real = both_features(evaluation, network)
        count = side_of(len(made), len(real))
        if count < LEAST:
            raise DataError(
                f"{len(made)} generated and {len(real)} real test images; distances need at "
                f"least {LEAST} and {2 * LEAST}",
                hint="generate more, or give a larger --real",
            )
        rows, floor = [], []
        for ours, theirs, others in draws(made, real, evaluation.seed):
            rows.append(_distances(ours, theirs))
            floor.append(_distances(others, theirs))
        names = _names(network.name)
        table = {
            name: {
                "generated to real": figure(float(np.mean([r[k] for r in rows]))),
                "real to real": figure(float(np.mean([r[k] for r in floor]))),
                "spread": figure(float(np.std([r[k] for r in rows]))),
            }
            for k, name in enumerate(names)
        }
        figures = {
            f"{name}{suffix}": row[column]
            for name, row in table.items()
            for suffix, column in (("", "generated to real"), (", real to real", "real to real"))
        }
        return CellResult(
            figures,
            {f"distances at N = {count}, mean of {REPEATS} draws": table},
            {"generated images": len(made), "real images": len(real), "a side": count},
            few(count, len(made), len(real)),
        )


def _names(network: str) -> tuple[str, str, str]:
    """What the distances are called: the famous names belong to their own features."""
    if network == "CLIP":
        return ("FD-CLIP", "KD-CLIP", "CMMD")
    if network == "Inception":
        return ("FID", "KID", "MMD-Inception")
    return (f"FD-{network}", f"KD-{network}", f"MMD-{network}")


def _distances(first: Features, second: Features) -> tuple[float, float, float]:
    return (frechet(first, second), kernel_distance(first, second), cmmd(first, second))


def side_of(made: int, real: int) -> int:
    """Images a side: the real ones must give two disjoint sets of that size."""
    return min(made, real // 2)


def few(count: int, made: int, real: int) -> list[str]:
    """The warning that stands beside figures of distributions of few images."""
    if count >= FEW:
        return []
    return [
        f"{count} images a side, of {made} generated and {real} real: rough under {FEW}; compare "
        "with the real-to-real floor of the same N only"
    ]


def draws(
    made: Features, real: Features, seed: int
) -> Iterator[tuple[Features, Features, Features]]:
    """Ten times features [N, D] of generated images, of real ones, and of other real ones."""
    rng = np.random.default_rng(seed)
    count = side_of(len(made), len(real))
    for _ in range(REPEATS):
        left, right = halves(len(real), count, rng)
        some = rng.permutation(len(made))[:count]
        yield made[some], real[left], real[right]


def halves(total: int, count: int, rng: np.random.Generator) -> tuple[Sequence[int], Sequence[int]]:
    """Two disjoint draws of `count` positions out of `total`."""
    order = rng.permutation(total)
    return order[:count].tolist(), order[count : 2 * count].tolist()


def both_features(evaluation: Evaluation, network: FeatureNetwork) -> tuple[Features, Features]:
    """Features of the generated and of the real images, float64 [N, D] and [M, D].

    The judge's are measured in units of the real images' spread, about their mean: a network
    that was never trained for distances has axes of any scale, and a cubic kernel sees the
    largest alone. A public network's features are left as they are, for figures that others
    publish.
    """
    made = features_of(evaluation.generated.ordered(), network, evaluation.check_stop)
    real = features_of(evaluation.real.ordered(), network, evaluation.check_stop)
    if network.name != "judge":
        return made, real
    middle, spread = real.mean(axis=0), real.std(axis=0)
    spread = np.where(spread > 1e-6 * max(float(spread.max()), 1e-12), spread, np.inf)
    return (made - middle) / spread, (real - middle) / spread


def features_of(
    images: Images, network: FeatureNetwork, check_stop: Callable[[], None]
) -> Features:
    """float64 [N, D]; image by image, so that batches do not matter."""
    rows = []
    for pixels in images.pixels():
        rows.append(network.features(pixels[None])[0])
        check_stop()
    return np.asarray(rows, dtype=np.float64)


CELL = FidelityCell()
