"""Labels on the ground -> features in the pixels of each scene that they lie in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from rsgen.formats.common import Problem, Tally
from rsgen.formats.vector import VectorLayer, crs_of
from rsgen.georaster import RasterInfo

__all__ = [
    "PIXELS",
    "Layer",
    "Placed",
    "Scene",
    "features_of",
    "tell_lost",
    "tell_other_lost",
]

PIXELS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the affine of an image that lies nowhere
LON_LAT = (181.0, 91.0)  # GeoJSON beyond these holds no degrees, whatever the standard says
Points = npt.NDArray[np.float64]
Geometries = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Scene:
    path: Path
    name: str
    info: RasterInfo


@dataclass
class Layer:
    """A layer with its features' classes (None: a feature that is a failure), by CRS.

    lost: what is wrong with features that are failures, until it is told.
    """

    layer: VectorLayer
    labels: list[str | None]
    lost: dict[int, Problem] = field(default_factory=dict)
    in_crs: dict[str | None, Geometries] = field(default_factory=dict)
    trees: dict[str | None, shapely.STRtree] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Placed:
    """A feature in a scene, in the scene's pixels."""

    layer: Layer
    index: int
    geometry: Any
    own: bool  # of a label file of the scene's name


def features_of(
    scene: Scene, own: list[Layer] | None, shared: list[Layer], tally: Tally
) -> list[Placed] | None:
    """The features of a scene in its pixels; None where the scene is a failure."""
    try:
        if scene.info.affine is None and own is None:
            raise Problem(
                "NotGeoreferenced",
                "the image does not say where it lies, so that shared labels cannot be placed",
                "georeference it, or name its label file like the image, in pixels",
            )
        if own is None and not shared:
            raise Problem(
                "MissingLabels",
                "no label file for this image",
                "add one (empty when there is no object), or remove the image",
            )
        found = [p for layer in own or () for p in _all_of(scene, layer, tally)]
        if own is None and not any(_is_near(scene, layer, tally) for layer in shared):
            raise Problem(
                "OutsideLabels",
                "the image lies outside of the area that has labels, so that it may hold objects "
                "without a label",
                "label it, or take it out",
            )
        if scene.info.affine is not None:
            found += [p for layer in shared for p in _inside(scene, layer, tally)]
    except Problem as problem:
        tally.image_failed(scene.name, problem)
        return None
    return found


def _all_of(scene: Scene, layer: Layer, tally: Tally) -> list[Placed]:
    geometries, _ = _on_map(scene, layer, tally)
    indices = [k for k, label in enumerate(layer.labels) if label is not None]
    return _to_pixels(scene, layer, geometries, indices, own=True)


def _is_near(scene: Scene, layer: Layer, tally: Tally) -> bool:
    """Whether the scene meets the bounds of the layer."""
    geometries, _ = _on_map(scene, layer, tally)
    if not len(geometries):
        return False
    x0, y0, x1, y1 = shapely.total_bounds(geometries).tolist()
    corners = np.array(_corners(scene.info))
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    return bool(x0 <= right and x1 >= left and y0 <= top and y1 >= bottom)


def _inside(scene: Scene, layer: Layer, tally: Tally) -> list[Placed]:
    """Features whose area meets the scene."""
    geometries, _ = _on_map(scene, layer, tally)
    indices = [k for k in _meeting(scene, layer) if layer.labels[k] is not None]
    placed = []
    for one in _to_pixels(scene, layer, geometries, indices, own=False):
        x0, y0, x1, y1 = one.geometry.bounds
        if x1 > 0 and y1 > 0 and x0 < scene.info.width and y0 < scene.info.height:
            placed.append(one)
    layer.used.update(one.index for one in placed)
    return placed


def _meeting(scene: Scene, layer: Layer) -> list[int]:
    """Features of a layer, brought into the scene's CRS before, that meet the scene."""
    footprint = shapely.Polygon(_corners(scene.info))
    found = layer.trees[scene.info.crs].query(footprint, predicate="intersects")
    return sorted(int(k) for k in found)


def tell_lost(scene: Scene, own: list[Layer] | None, shared: list[Layer], tally: Tally) -> None:
    """Count the failed features of a scene, just before it is kept: it is what has lost them."""
    for layer in own or ():
        _tell(layer, list(layer.lost), tally, of_image=True)
    for layer in shared:
        if layer.lost and scene.info.affine is not None:
            indices = [k for k in _meeting(scene, layer) if k in layer.lost]
            _tell(layer, indices, tally, of_image=True)


def tell_other_lost(layers: Iterable[Layer], tally: Tally) -> None:
    """Count the failed features that no scene was told of."""
    for layer in layers:
        _tell(layer, list(layer.lost), tally, of_image=False)


def _tell(layer: Layer, indices: list[int], tally: Tally, *, of_image: bool) -> None:
    for index in indices:
        problem = layer.lost.pop(index)
        tally.label_failed(layer.layer.item(index), problem, of_image=of_image)


def _corners(info: RasterInfo) -> list[tuple[float, float]]:
    a, b, c, d, e, f = info.affine or PIXELS
    edges = ((0, 0), (info.width, 0), (info.width, info.height), (0, info.height))
    return [(c + a * x + b * y, f + d * x + e * y) for x, y in edges]


def _to_pixels(
    scene: Scene, layer: Layer, geometries: Geometries, indices: list[int], *, own: bool
) -> list[Placed]:
    a, b, c, d, e, f = scene.info.affine or PIXELS
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
    offset = np.array([c, f])
    moved = shapely.transform(geometries[indices], lambda p: (p - offset) @ inverse.T)
    return [Placed(layer, k, g, own) for k, g in zip(indices, moved, strict=True)]


def _on_map(scene: Scene, layer: Layer, tally: Tally) -> tuple[Geometries, shapely.STRtree]:
    """The layer in the scene's map coordinates, with an index of it; made once a CRS."""
    target = scene.info.crs
    if target not in layer.in_crs:
        made = _transformed(scene, layer, tally)
        layer.in_crs[target] = made
        layer.trees[target] = shapely.STRtree(made)
    return layer.in_crs[target], layer.trees[target]


def _transformed(scene: Scene, layer: Layer, tally: Tally) -> Geometries:
    source, geometries = layer.layer.crs, layer.layer.geometries
    name = layer.layer.name
    if source is not None and layer.layer.guessed and not _are_degrees(geometries):
        tally.remark(f"{name} names no CRS and holds no degrees: read in the image's coordinates")
        source = None
    if source is None:
        return geometries
    if scene.info.crs is None:
        if scene.info.affine is None and not layer.layer.guessed:
            raise Problem(
                "NotGeoreferenced",
                f"{name} is in a CRS, and the image does not say where it lies",
                "georeference the image, or write its labels in pixels (crs: null)",
            )
        tally.remark(f"{name} is read in the coordinates of images that name no CRS")
        return geometries
    target = crs_of(scene.info.crs)
    if source == target:
        return geometries

    with np.errstate(invalid="ignore"):
        moved: Geometries = shapely.transform(geometries, lambda p: _moved(p, source, target))
    points, owners = shapely.get_coordinates(moved, return_index=True)
    for index in np.unique(owners[~np.isfinite(points).all(axis=1)]).tolist():
        moved[index] = None
        if layer.labels[index] is not None:
            layer.labels[index] = None
            layer.lost[index] = Problem(
                "NotFinite", "it lies where the image's CRS has no coordinates", "check its CRS"
            )
    return moved


def _moved(points: Points, source: Any, target: Any) -> Points:
    """Points [N, 2] in another CRS, infinite where it has no coordinates for them."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    if not len(points):
        return points
    try:
        xs, ys = transform(source, target, points[:, 0].tolist(), points[:, 1].tolist())
        return np.column_stack([xs, ys])
    except (RasterioError, CPLE_BaseError):
        if len(points) == 1:
            return np.full((1, 2), np.inf)
    # One point that cannot be transformed fails its whole batch: it is looked for by halving.
    half = len(points) // 2
    halves = (_moved(part, source, target) for part in (points[:half], points[half:]))
    return np.concatenate(list(halves))


def _are_degrees(geometries: Geometries) -> bool:
    points = shapely.get_coordinates(geometries)
    return not len(points) or bool((np.abs(points).max(axis=0) <= LON_LAT).all())
