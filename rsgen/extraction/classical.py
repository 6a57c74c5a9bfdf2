"""Backend `classical`: masks from boxes with shape hypotheses and colour, no weights.

Each label's box is resampled to a small patch. Typical outlines of the class (turned in all
directions that fit the box) are compared by how well "inside" and "outside" tell the patch's
colours apart; the best one seeds a colour segmentation, whose result is scored by contrast
and fill. Where the colours do not support a mask the typical outline itself is returned,
marked as a fall-back (`origin` = "box" and a reason).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.extraction.base import Pixels, resolve_contested
from rsgen.extraction.patch import (
    Frame,
    Patch,
    cut_patch,
    extended_frames,
    frame_of_label,
    least_mask,
    mask_from_field,
)
from rsgen.extraction.shapes import INSET, Family, Templates, family_of, templates
from rsgen.geometry import box_quad
from rsgen.pool.canonical import FRONT_GUESS
from rsgen.records import ClassTable, Instance

__all__ = ["ClassicalBackend"]

Grid = npt.NDArray[np.float32]
COARSE = 48  # cells a side of the patch in which hypotheses are compared
FINE = (48, 120)  # least and most cells of the patch in which the outline is refined
COLOURS = 14  # colour clusters of a patch
# Tuned on the default scene style alone, for the mean of class means (all are on a plateau).
EDGE_WEIGHT = 0.24  # of the outline's mean gradient, against the share of entropy explained
EXTENSION_COST = 0.02  # reaching past the image's border must explain this much more
PRIOR_WEIGHT = 1.2  # the outline's log odds against the colours'
PRIOR_ODDS = 0.1  # least belief that a cell is inside or outside
COLOUR_ODDS = 2.5  # most a colour's log odds may say
COLOUR_REACH = (0.25, 1.0, 4.0)  # share of the Lab spread (least, most) within which colours mix
NEAR, FAR = 0.06, 0.2  # background counts more near the outline, where the shadow lies
RADIUS = 24  # the smoothing's reach is the patch's side over this
PASSES = 3


@dataclass(frozen=True, slots=True)
class Found:
    """One object's field [S, S] (share inside), its evidence, and the reason to doubt it.

    `front_rad`: where its front seems to be, for upright labels of classes that have one.
    """

    field: Grid
    patch: Patch
    score: float
    doubt: str | None
    front_rad: float | None = None


class ClassicalBackend:
    """Box-seeded segmentation; deterministic, about 5-10 ms an object on one core.

    For upright labels of classes with a front, the direction of the best outline goes into
    `attributes["front_guess_rad"]`: a guess for the mask pool, not a heading.
    """

    name = "classical"

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        """Masks for instances without one; given masks and stuff are left as they are."""
        made = [i.mask is None and not labels.is_stuff(i.label) for i in known]
        filled = [
            self.single(image, instance, known) if new else instance
            for instance, new in zip(known, made, strict=True)
        ]
        return resolve_contested(filled, made, labels)

    def single(self, image: Pixels, instance: Instance, known: Sequence[Instance]) -> Instance:
        """A mask for one of `known`, before pixels that others claim too are given away."""
        height, width = image.shape[:2]
        label = frame_of_label(instance, width, height)
        if label is None:
            return replace(instance, reasons=(*instance.reasons, "no box inside the image"))
        frame, pose = label
        others = [o for o in known if o is not instance]
        found = segment(image, frame, family_of(instance.label), pose, others)
        mask = mask_from_field(found.field, found.patch, width, height)
        reasons = instance.reasons
        if found.doubt is not None:
            reasons = (*reasons, f"fallback: {found.doubt}")
        attributes = instance.attributes
        if found.front_rad is not None:
            attributes = {**attributes, FRONT_GUESS: f"{found.front_rad:.3f}"}
        return replace(
            instance,
            attributes=attributes,
            mask=mask or least_mask(frame, width, height),
            origin=self.name if found.doubt is None else "box",
            scores={**instance.scores, "mask": round(found.score, 4)},
            reasons=reasons,
        )


def segment(
    image: Pixels, frame: Frame, family: Family, pose: str, others: Sequence[Instance]
) -> Found:
    """The object inside `frame`: best outline hypothesis, refined by colour, and scored."""
    frames = [frame]
    if pose == "any":
        frames += extended_frames(frame, image.shape[1], image.shape[0])
    tried = []
    for number, option in enumerate(frames):
        options = templates(family, option.log_aspect, pose, COARSE)
        coarse = cut_patch(image, option, COARSE)
        weight = coarse.known * _without(others, coarse)
        best, merit = _choose(coarse, weight, options, family)
        merit -= EXTENSION_COST * (number > 0)
        tried.append((merit, -number, option, options, coarse, best))
    _, _, frame, options, coarse, best = max(tried, key=lambda t: t[:2])
    weight = coarse.known * _without(others, coarse)
    side = int(min(max(max(frame.width, frame.height) / (1 - 2 * INSET), FINE[0]), FINE[1]))
    fine = coarse if side == COARSE else cut_patch(image, frame, side)
    if side != COARSE:
        weight = fine.known * _without(others, fine)
    prior = cv2.resize(options.fill[best], (side, side), interpolation=cv2.INTER_LINEAR)
    field, contrast = _refine(fine, weight, prior, family.softness)
    score, doubt = _judge(field, prior, contrast, frame)
    angle = float(options.angle[best])
    guess = angle if pose == "any" and doubt is None and not math.isnan(angle) else None
    return Found(field if doubt is None else prior, fine, score, doubt, guess)


def _without(others: Sequence[Instance], patch: Patch) -> Grid:
    """1 where no other label's box lies; neighbours tell nothing about the background."""
    size = patch.known.shape[0]
    free = np.ones((size, size), dtype=np.float32)
    inverse = np.linalg.inv(np.vstack([patch.to_image, [0, 0, 1]]))[:2]
    reach = np.abs(patch.to_image[:, :2]).sum(axis=1) * size
    centre = patch.to_image @ (size / 2, size / 2, 1)
    for other in others:
        box = other.bounds()
        if box is None or (other.box is None and other.quad is None):
            continue
        if abs(box.center[0] - centre[0]) * 2 > reach[0] + box.width:
            continue
        if abs(box.center[1] - centre[1]) * 2 > reach[1] + box.height:
            continue
        corners = other.quad or box_quad(box)
        points = np.asarray(corners) @ inverse[:, :2].T + inverse[:, 2]
        fixed = np.round((points - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(free, [fixed], 0.0, cv2.LINE_8, shift=4)
    low, high = int(INSET * size), int((1 - INSET) * size) + 1
    free[low:high, low:high] = np.maximum(free[low:high, low:high], 0.3)
    return free


def _clusters(pixels: Pixels, count: int) -> tuple[npt.NDArray[np.int32], Grid]:
    """Colour cluster of each cell, int32 [S, S], and the centres, float32 [count, 3] in Lab."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(np.float32)
    flat = lab.reshape(-1, 3)
    order = np.argsort(flat[:, 0] + 0.5 * (flat[:, 1] - flat[:, 2]), kind="stable")
    start = np.empty((len(flat), 1), dtype=np.int32)
    start[order, 0] = np.arange(len(flat)) * count // len(flat)
    stop = (cv2.TERM_CRITERIA_MAX_ITER + cv2.TERM_CRITERIA_EPS, 8, 0.5)
    _, found, centres = cv2.kmeans(flat, count, start, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    shaped = np.asarray(found, dtype=np.int32).reshape(pixels.shape[:2])
    return shaped, np.asarray(centres, dtype=np.float32)


def _choose(patch: Patch, weight: Grid, options: Templates, family: Family) -> tuple[int, float]:
    """The hypothesis that tells colours apart best, and by how much (0..1)."""
    clusters, _ = _clusters(patch.pixels, COLOURS)
    cells = weight.ravel()
    member = np.zeros((clusters.size, COLOURS), dtype=np.float32)
    member[np.arange(clusters.size), clusters.ravel()] = cells
    fill = options.fill.reshape(len(options.fill), -1)
    inside = fill @ member
    total = member.sum(axis=0)
    gain = _information(inside, total)
    grey = cv2.cvtColor(patch.pixels, cv2.COLOR_RGB2LAB).astype(np.float32)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    slope = np.hypot(across, down).sum(axis=2)
    slope = np.minimum(slope / max(float(slope.mean()), 1e-3), 4.0) * patch.known
    edge = options.edge.reshape(len(options.fill), -1) @ slope.ravel()
    tone = grey[..., 0].ravel() * cells
    spread = max(float(grey[..., 0].std()), 4.0)
    share = np.maximum(fill @ cells, 1e-3)
    bright = ((fill @ tone) / share - tone.sum() / max(float(cells.sum()), 1e-3)) / spread
    merit = gain + EDGE_WEIGHT * edge + family.bright * np.clip(bright, -2, 2) - options.cost
    best = int(np.argmax(merit))
    return best, float(merit[best])


def _information(inside: Grid, total: Grid) -> Grid:
    """Share of the inside/outside entropy that the colour explains, for each of [K, C]."""
    outside = np.maximum(total - inside, 0.0)
    mass = max(float(total.sum()), 1e-6)
    p_in = inside.sum(axis=1, keepdims=True) / mass
    joint = np.stack([inside, outside]) / mass
    marginal = np.stack([p_in, 1 - p_in]) * (total / mass)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 1e-9, joint * np.log(joint / np.maximum(marginal, 1e-12)), 0.0)
    p = np.clip(p_in[:, 0], 1e-4, 1 - 1e-4)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return np.asarray(terms.sum(axis=(0, 2)) / entropy, dtype=np.float32)


def _refine(patch: Patch, weight: Grid, prior: Grid, softness: float) -> tuple[Grid, float]:
    """Field of the share inside, and the contrast between inside and outside colours (0..1)."""
    size = prior.shape[0]
    clusters, centres = _clusters(patch.pixels, COLOURS)
    flat = clusters.ravel()
    count = len(centres)
    gap = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    reach = float(
        np.clip(COLOUR_REACH[0] * np.sqrt((gap**2).mean() / 2), COLOUR_REACH[1], COLOUR_REACH[2])
    )
    share = np.exp(-0.5 * (gap / reach) ** 2).astype(np.float32)  # colours this near are one
    inner = max(1, int(INSET * size))
    in_box = np.zeros((size, size), dtype=np.float32)
    in_box[inner : size - inner, inner : size - inner] = 1.0
    sigma = max(0.6, softness * size * (1 - 2 * INSET))
    soft = cv2.GaussianBlur(prior, (0, 0), sigma)
    belief = np.clip(soft, PRIOR_ODDS, 1 - PRIOR_ODDS)
    prior_logit = np.log(belief / (1 - belief))
    near = cv2.GaussianBlur(prior, (0, 0), NEAR * size) + FAR
    inside = prior.copy()
    contrast = 0.0
    grey = cv2.cvtColor(patch.pixels, cv2.COLOR_RGB2GRAY)
    guide = np.asarray(grey, dtype=np.float32) / np.float32(255)
    for _ in range(PASSES):
        w_in = (inside * weight).ravel()
        w_out = ((1 - inside) * weight * near).ravel()
        h_in = np.bincount(flat, w_in, count).astype(np.float32) @ share + 0.5
        h_out = np.bincount(flat, w_out, count).astype(np.float32) @ share + 0.5
        p_in, p_out = h_in / h_in.sum(), h_out / h_out.sum()
        contrast = max(0.0, 1.0 - float(np.sqrt(p_in * p_out).sum()))  # rounding may go below
        ratio = np.clip(np.log(p_in / p_out), -COLOUR_ODDS, COLOUR_ODDS)
        logit = PRIOR_WEIGHT * prior_logit + ratio[clusters]
        smooth = _guided(guide, np.asarray(logit, dtype=np.float32), max(1, size // RADIUS), 1e-3)
        inside = (1 / (1 + np.exp(-1.5 * smooth))) * in_box
    return _tidy(inside, prior), contrast


def _guided(guide: Grid, values: Grid, radius: int, epsilon: float) -> Grid:
    """Edge-keeping smoothing. Source: He et al. 2010, guided image filtering, eq. 4-6, 8."""
    size = (2 * radius + 1, 2 * radius + 1)
    mean_g, mean_v = cv2.blur(guide, size), cv2.blur(values, size)
    variance = cv2.blur(guide * guide, size) - mean_g * mean_g
    covariance = cv2.blur(guide * values, size) - mean_g * mean_v
    a = covariance / (variance + epsilon)
    b = mean_v - a * mean_g
    return np.asarray(cv2.blur(a, size) * guide + cv2.blur(b, size), dtype=np.float32)


def _tidy(inside: Grid, prior: Grid) -> Grid:
    """Keep the parts that meet the outline's core; close small holes."""
    hard = (inside >= 0.5).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(hard, connectivity=4)
    if count > 2:
        core = np.bincount(parts.ravel(), (prior >= 0.5).ravel(), count)
        largest = core[1:].max()
        for k in range(1, count):
            if core[k] < 0.15 * largest or core[k] < 0.4 * stats[k, cv2.CC_STAT_AREA]:
                inside = np.where(parts == k, np.minimum(inside, 0.3), inside)
    gaps, holes, sizes, _ = cv2.connectedComponentsWithStats(1 - (inside >= 0.5).astype(np.uint8))
    for k in range(1, gaps):
        if sizes[k, cv2.CC_STAT_AREA] < 0.03 * inside.size and holes[0, 0] != k:
            inside = np.where(holes == k, np.maximum(inside, 0.7), inside)
    return np.asarray(inside, dtype=np.float32)


def _judge(field: Grid, prior: Grid, contrast: float, frame: Frame) -> tuple[float, str | None]:
    """Score in [0, 1] from contrast, fill, agreement with the outline and certainty."""
    hard, shape = field >= 0.5, prior >= 0.5
    area = int(hard.sum())
    if area == 0:
        return 0.0, "nothing stands out"
    agreement = float((hard & shape).sum() / (hard | shape).sum())
    side = (1 - 2 * INSET) * field.shape[0]
    rows, columns = np.flatnonzero(hard.any(axis=1)), np.flatnonzero(hard.any(axis=0))
    fill = min(1.0, (rows[-1] - rows[0] + 1) / side) * min(
        1.0, (columns[-1] - columns[0] + 1) / side
    )
    certainty = float(np.abs(field - 0.5)[hard | shape].mean()) * 2
    score = min(1.0, contrast / 0.5) ** 0.25 * fill**0.5 * agreement * certainty**2
    if contrast < 0.06:
        return score * 0.5, f"low contrast {contrast:.2f}"
    if agreement < 0.4:
        return score * 0.5, f"outline unlike the class {agreement:.2f}"
    if fill < 0.35:
        return score * 0.5, f"fills little of its box {fill:.2f}"
    return score, None
