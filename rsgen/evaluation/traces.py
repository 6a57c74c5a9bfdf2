"""Traces that a camera, a codec or a resampler leaves: numbers of an image that say nothing of
what it shows."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.images import Pixels

__all__ = ["GROUPS", "traces"]

Grey = npt.NDArray[np.float64]
TINY = 1e-6
BLOCK = 8  # JPEG's
BANDS = ((0.0625, 0.125), (0.125, 0.25), (0.25, 0.375), (0.375, 0.5))  # cycles a pixel
LEVELS = 24  # coefficient sizes that are looked at for gaps
LOW = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))

GROUPS: dict[str, tuple[str, ...]] = {
    "codec": (
        "8 px blocks, grey",
        "8 px blocks, colour",
        "gaps in cosine coefficients",
        "high coefficients that are zero",
        "unused grey levels",
        "colour sharpness to grey",
    ),
    "blur": (
        "power at 1/16 to 1/8",
        "power at 1/8 to 1/4",
        "power at 1/4 to 3/8",
        "power at 3/8 to 1/2",
        "Laplacian to variance",
        "loss when blurred again",
    ),
    "noise": (
        "noise (Immerkaer)",
        "noise (diagonal differences)",
        "noise in flat places",
        "noise across, next pixel",
        "noise down, next pixel",
        "noise of red and green",
        "noise of green and blue",
        "noise tails",
    ),
}


def traces(image: Pixels) -> npt.NDArray[np.float64]:
    """All numbers of uint8 [H, W, 3] RGB, at least 32 px a side, in the order of `GROUPS`.

    Finite, and by and large independent of what is shown; logarithms where scales vary.
    """
    rgb = image.astype(np.float64)
    grey = rgb @ (0.299, 0.587, 0.114)
    return np.array([*_codec(image, rgb, grey), *_blur(grey), *_noise(rgb, grey)])


def _codec(image: Pixels, rgb: Grey, grey: Grey) -> list[float]:
    colour = rgb[..., 0] - grey
    down, across = _best_phase(grey), _best_phase(grey.T)
    phase = (down[1], across[1])
    coefficients = _cosines(grey[phase[0] :, phase[1] :])
    high = [(u, v) for u in range(BLOCK) for v in range(BLOCK) if u + v >= BLOCK]
    zeros = np.mean([np.abs(coefficients[:, u, v]) < 0.5 for u, v in high])
    blocky = max(_best_phase(colour)[0], _best_phase(colour.T)[0])
    return [
        max(down[0], across[0]),
        blocky,
        float(np.mean([_gaps(coefficients[:, u, v]) for u, v in LOW])),
        float(zeros),
        _unused_levels(image),
        _log(_laplacian(colour).std()) - _log(_laplacian(grey).std()),
    ]


def _best_phase(values: Grey) -> tuple[float, int]:
    """How much larger the jumps are between rows at one phase of 8 than at the others, as a
    logarithm, and the row at which blocks begin."""
    jumps = np.abs(np.diff(values, axis=0)).mean(axis=1)
    rough = jumps[1:-1] - (jumps[:-2] + jumps[2:]) / 2
    size = np.array([rough[k::BLOCK].mean() for k in range(BLOCK)])
    best = int(size.argmax())
    others = np.abs(np.delete(size, best)).mean()
    # rough[k] is the step between rows k + 1 and k + 2
    return float(np.log1p(max(size[best], 0.0) / (others + 0.05))), (best + 2) % BLOCK


def _cosines(grey: Grey) -> Grey:
    """Orthonormal cosine coefficients of 8 x 8 blocks, [N, 8, 8]; as JPEG's, unquantised."""
    from scipy.fft import dctn

    rows, columns = grey.shape[0] // BLOCK, grey.shape[1] // BLOCK
    cut = grey[: rows * BLOCK, : columns * BLOCK] - 128
    blocks = cut.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)
    return np.asarray(dctn(blocks, axes=(1, 2), norm="ortho"))


def _gaps(coefficients: Grey) -> float:
    """Share of sizes up to 24 that hardly occur though a larger one does: quantised ones leave
    them out."""
    sizes = np.rint(np.abs(coefficients)).astype(np.int64)
    counts = np.bincount(np.minimum(sizes, LEVELS + 1), minlength=LEVELS + 2)[: LEVELS + 1]
    largest = np.maximum.accumulate(counts[::-1])[::-1]
    return float(np.mean(counts[1:] < 0.2 * largest[1:]))


def _unused_levels(image: Pixels) -> float:
    """Share of levels between the 1st and 99th percentile that no pixel has."""
    shares = []
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        low, high = np.percentile(image[..., channel], (1, 99)).astype(int)
        shares.append(np.mean(counts[low : high + 1] == 0))
    return float(np.mean(shares))


def _blur(grey: Grey) -> list[float]:
    height, width = grey.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    total = power[radius < 0.5].sum() + TINY
    shares = [power[(radius >= a) & (radius < b)].sum() / total for a, b in BANDS]
    again = cv2.blur(grey, (3, 3))
    gradients = [np.abs(np.diff(g, axis=0)).mean() + np.abs(np.diff(g, axis=1)).mean()
                 for g in (grey, again)]  # fmt: skip
    sharp = _log(_laplacian(grey).var()) - _log(grey.var())
    return [*(_log(s) for s in shares), sharp, _log(gradients[1]) - _log(gradients[0])]


def _laplacian(grey: Grey) -> Grey:
    return np.asarray(cv2.Laplacian(grey, cv2.CV_64F), dtype=np.float64)


def _residual(values: Grey) -> Grey:
    """What a cross-shaped second difference leaves: edges and slopes cancel, noise stays.

    Source: Immerkaer 1996, "Fast Noise Variance Estimation".
    """
    kernel = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6
    found = np.asarray(cv2.filter2D(values, cv2.CV_64F, kernel), dtype=np.float64)
    return found[1:-1, 1:-1]


def _noise(rgb: Grey, grey: Grey) -> list[float]:
    left = _residual(grey)
    height, width = (n // 2 * 2 for n in grey.shape)
    even = grey[:height, :width]
    diagonal = (even[::2, ::2] - even[::2, 1::2] - even[1::2, ::2] + even[1::2, 1::2]) / 2
    local = np.sqrt(np.maximum(cv2.blur(left**2, (7, 7)), 0))  # running sums go below 0
    red, green, blue = (_residual(np.ascontiguousarray(rgb[..., k])).ravel() for k in range(3))
    spread = left.std() + TINY
    tails = np.mean(np.abs(left) > 3 * spread)
    return [
        _log(np.sqrt(np.pi / 2) * np.abs(left).mean()),
        _log(np.median(np.abs(diagonal)) / 0.6745),
        _log(np.percentile(local, 10)),
        _alike(left[:, :-1].ravel(), left[:, 1:].ravel()),
        _alike(left[:-1].ravel(), left[1:].ravel()),
        _alike(red, green),
        _alike(green, blue),
        float(tails),
    ]


def _alike(a: Grey, b: Grey) -> float:
    """Correlation; 0 where either does not vary."""
    a, b = a - a.mean(), b - b.mean()
    lengths = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / lengths if lengths > TINY else 0.0


def _log(value: float) -> float:
    return float(np.log(value + 1e-3))
