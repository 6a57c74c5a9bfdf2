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
from rsgen.records import ClassTable, Layout, Sample
from rsgen.reporting import Reporter
from rsgen.store import SampleRun
from rsgen.training.latents import LatentViews, encode_pixels
from rsgen.training.neighbours import NearestReport, nearest_training_images
from rsgen.training.painting import paint

__all__ = ["Validator", "check_copies", "check_reconstructions", "write_grid"]


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
    ) -> None:
        self.model, self.encoding, self.classes, self.views = model, encoding, classes, views
        self.size, self.seed, self.reporter = size, seed, reporter
        self.samples = list(samples)
        crops = [top_left(source.read_image(s), s.layout, size) for s in samples]
        self.references = [image for image, _ in crops]
        self.layouts = [layout for _, layout in crops]

    def look(self, step: int, path: Path) -> float:
        """Write the grid of a step; returns the mean distance to the nearest training image."""
        generated = paint(
            self.model, self.layouts, self.encoding, self.classes, self.size, self.seed
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


def top_left(image: Pixels, layout: Layout, size: int) -> tuple[Pixels, Layout]:
    """The size x size corner of an image with its layout, at its own scale."""
    if image.shape[:2] == (size, size):
        return image, layout
    moved = move_layout(layout, similarity(), size, size)
    return np.ascontiguousarray(image[:size, :size]), moved


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
