"""What is looked at while a model learns: pictures, their error, and copies of training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rsgen.augment import move_layout
from rsgen.condition import ConditionEncoding, from_model, palette_png, to_model
from rsgen.geometry import similarity
from rsgen.images import Pixels
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.pictures import contact_sheet, draw_layout
from rsgen.prompts import DEFAULT_TEMPLATE
from rsgen.records import ClassTable, Layout, Sample
from rsgen.reporting import Reporter
from rsgen.store import SampleRun
from rsgen.training.latents import LatentViews, encode_pixels
from rsgen.training.neighbours import NearestReport, nearest_training_images
from rsgen.training.painting import paint

__all__ = ["Validator", "check_copies", "check_reconstructions", "write_grid"]


MOST_WINDOWS = 500  # tried an image at most


class Validator:
    """Paints fixed layouts, writes a grid, and looks for copies of training images."""

    def __init__(
        self,
        model: StableDiffusion,
        source: SampleRun,
        samples: Sequence[Sample],
        encoding: ConditionEncoding | None,
        classes: ClassTable,
        views: LatentViews,
        size: int,
        seed: int,
        reporter: Reporter,
        template: str = DEFAULT_TEMPLATE,
    ) -> None:
        """`template` makes the prompts, as in training."""
        self.template = template
        self.model, self.encoding, self.classes, self.views = model, encoding, classes, views
        self.size, self.seed, self.reporter = size, seed, reporter
        self.samples = list(samples)
        crops = [crop_of(source.read_image(s), s.layout, size) for s in samples]
        self.references = [image for image, _ in crops]
        self.layouts = [layout for _, layout in crops]

    def look(self, step: int, path: Path) -> float:
        """Write the grid of a step; returns the mean distance to the nearest training image."""
        generated = paint(
            self.model,
            self.layouts,
            self.encoding,
            self.classes,
            self.size,
            self.seed,
            template=self.template,
        )
        conditions = [palette_png(layout, self.classes) for layout in self.layouts]
        write_grid(path, conditions, generated, self.layouts, self.references)
        report = check_copies(self.model, generated, self.views, self.reporter, step)
        return float(np.mean(report.distances))


def check_copies(
    model: StableDiffusion,
    images: Sequence[Pixels],
    views: LatentViews,
    reporter: Reporter,
    step: int,
) -> NearestReport:
    """Log the distance of images to the training images, and an alarm for likely copies."""
    latents = encode_pixels(model.vae, np.stack(images))
    report = nearest_training_images(latents, views.real_latents())
    reporter.metric("distance to nearest training image", float(np.mean(report.distances)), step)
    for place in report.copies:
        source = views.images.samples[report.nearest[place]]
        reporter.note(
            f"validation image {place} at step {step} is nearly a copy of training image "
            f"{source.id}: distance {report.distances[place]:.3f}, under the 1st percentile "
            f"{report.bound:.3f} of the training images' own distances",
            "warning",
        )
    return report


def crop_of(image: Pixels, layout: Layout, size: int) -> tuple[Pixels, Layout]:
    """The size x size window of an image that shows most objects, with its layout, unscaled."""
    if image.shape[:2] == (size, size):
        return image, layout
    x, y = window_of(layout, size)
    moved = move_layout(layout, similarity(shift=(-x, -y)), size, size)
    return np.ascontiguousarray(image[y : y + size, x : x + size]), moved


def window_of(layout: Layout, size: int) -> tuple[int, int]:
    """Left and top of the window that holds most objects whole; of equal ones, most of their area.

    Windows are centred on objects, as far as the border lets them; the corner without any.
    """
    boxes = np.array(
        [(b.x0, b.y0, b.x1, b.y1) for i in layout.instances if (b := i.bounds()) is not None]
    )
    if not len(boxes):
        return 0, 0
    most = np.array([layout.width - size, layout.height - size])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    starts = np.clip(np.round(centres - size / 2), 0, np.maximum(most, 0))
    best, found = (-1, -1.0), (0, 0)
    for start in np.unique(starts, axis=0)[:: len(starts) // MOST_WINDOWS + 1]:
        low, high = np.maximum(boxes[:, :2], start), np.minimum(boxes[:, 2:], start + size)
        inside = np.prod(np.clip(high - low, 0, None), axis=1)
        whole = inside >= np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - 1e-6
        score = (int(whole.sum()), float(inside.sum()))
        if score > best:
            best, found = score, (int(start[0]), int(start[1]))
    return found


def write_grid(
    path: Path,
    conditions: Sequence[Pixels],
    generated: Sequence[Pixels],
    layouts: Sequence[Layout],
    references: Sequence[Pixels],
) -> Path:
    """Condition | generated | generated with labels | reference image, two samples a row."""
    tiles: list[Pixels] = []
    for condition, picture, layout, reference in zip(
        conditions, generated, layouts, references, strict=True
    ):
        tiles += [condition, picture, draw_layout(picture, layout, labels=False), reference]
    titles = ["condition", "generated", "with labels", "reference"] * len(generated)
    return contact_sheet(tiles, path, titles=titles, columns=8)


def check_reconstructions(model: StableDiffusion, originals: Sequence[Pixels], path: Path) -> float:
    """Write originals beside their reconstructions; returns the mean error in grey levels."""
    vae = model.vae
    tiles: list[Pixels] = []
    titles: list[str] = []
    errors: list[float] = []
    for original in originals:
        parameter = next(vae.parameters())
        with torch.no_grad():
            pixels = to_model(original[None]).to(parameter)
            output = from_model(vae.decode(vae.encode(pixels).latent_dist.mean).sample)[0]
        errors.append(float(np.abs(original.astype(np.float32) - output).mean()))
        tiles += [original, output]
        titles += ["original", f"error {errors[-1]:.1f}"]
    contact_sheet(tiles, path, titles=titles, columns=8)
    return float(np.mean(errors)) if errors else float("nan")
