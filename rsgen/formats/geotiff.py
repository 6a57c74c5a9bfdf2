"""GeoTIFF scenes with GeoJSON or GeoPackage labels, in any CRS.

Labels that share a scene's name are that scene's; all others go to the scenes that they lie in.
They are brought into the scene's CRS and then into its pixels. Outlines become masks. Where
every label of a set is a rectangle they are boxes, upright or oriented, and no masks; what
rsgen wrote says for each which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsgen.errors import DataError
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    Tally,
    split_of_path,
    things_only,
)
from rsgen.formats.files import is_under, join_key, list_files, names_images, relative
from rsgen.formats.geotiff_place import (
    PIXELS,
    Layer,
    Placed,
    Scene,
    features_of,
    tell_lost,
    tell_other_lost,
)
from rsgen.formats.geotiff_shapes import instance_of, is_rectangle
from rsgen.formats.geotiff_write import GeoTiffWriter, why_left_out
from rsgen.formats.names import LabelNames, paint_order
from rsgen.formats.pairs import image_root, label_base
from rsgen.formats.vector import (
    VectorLayer,
    class_of,
    find_class_key,
    read_layers,
    vector_files,
)
from rsgen.geometry import bounds
from rsgen.georaster import RASTER_SUFFIXES, probe_raster
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["FORMAT", "read_geotiff"]

LISTED = 30


def read_geotiff(request: ReadRequest) -> Dataset:
    """Read scenes and their vector labels; see `FormatReader`.

    Raises:
        DataError: no scene, no label file, or no property that names the class.
        SetupError: GeoPackage labels without pyogrio.
    """
    if not request.require_images:
        raise DataError(
            f"{request.path}: vector labels have no pixels of their own",
            hint="keep the GeoTIFFs beside them, or give labels of another format",
        )
    tally = Tally(image_root(request))
    names = LabelNames(request.classes, request.class_map)
    scenes = _scenes(request, tally)
    own, shared = _layers(request, scenes, names, tally)
    placed = [(scene, features_of(scene, own.get(scene.name), shared, tally)) for scene in scenes]
    gsd_m = {name: layers[0].layer.gsd_m for name, layers in own.items()}
    rectangles = _only_rectangles(placed)
    if rectangles:
        tally.notes.append("geotiff: every label is a rectangle, read as boxes and not as outlines")
    for scene, features in placed:
        if features is not None:
            layout = Layout(
                scene.info.width,
                scene.info.height,
                gsd_m=request.gsd_m or gsd_m.get(scene.name) or scene.info.gsd_m,
            )
            tell_lost(scene, own.get(scene.name), shared, tally)
            _keep(scene, layout, features, rectangles, request, names, tally)
    tell_other_lost([*(one for layers in own.values() for one in layers), *shared], tally)
    for layer in shared:
        _tell_unused(layer, tally)
    return tally.dataset("geotiff", names.table())


# ---------------------------------------------------------------- scenes and label files


def scene_files(root: Path, *, explicit: bool) -> list[Path]:
    """Rasters under a folder; where some lie in folders called images, those alone."""
    paths = list_files(root, RASTER_SUFFIXES)
    named = [] if explicit else [p for p in paths if is_under(p, root, names_images)]
    return named or paths


def _scenes(request: ReadRequest, tally: Tally) -> list[Scene]:
    scenes = []
    for path in scene_files(tally.root, explicit=request.images is not None):
        name = relative(path, tally.root)
        try:
            scenes.append(Scene(path, name, probe_raster(path)))
        except DataError as error:
            text = error.message.replace(str(path), name)
            problem = Problem("BadImage", text, error.hint or "replace it")
            tally.image_failed(name, problem)
    return scenes


def _layers(
    request: ReadRequest, scenes: list[Scene], names: LabelNames, tally: Tally
) -> tuple[dict[str, list[Layer]], list[Layer]]:
    """(layers by the name of the scene that they belong to, layers of all scenes)."""
    base = label_base(request)
    files = vector_files(request.labels or request.path)
    if not files:
        raise DataError(
            f"{request.labels or request.path}: no GeoJSON and no GeoPackage",
            hint="point --labels at the label file or its folder",
        )
    read: list[tuple[Path, VectorLayer]] = []
    for path in files:
        name = relative(path, base)
        try:
            read += [(path, layer) for layer in read_layers(path, name)]
        except Problem as problem:
            tally.label_failed(name, problem)
    key = _class_key([layer for _, layer in read], request, tally)
    by_key = {join_key(s.path, tally.root): s.name for s in scenes}
    stems: dict[str, list[str]] = {}
    for known, name in by_key.items():
        stems.setdefault(known.rsplit("/", 1)[-1], []).append(name)
    own: dict[str, list[Layer]] = {}
    shared: list[Layer] = []
    for path, layer in read:
        made = _labelled(layer, key, request, names)
        alone = stems.get(path.stem, [])
        scene = by_key.get(join_key(path, base)) or (alone[0] if len(alone) == 1 else None)
        if scene is None:
            shared.append(made)
        else:
            own.setdefault(scene, []).append(made)
    return own, shared


def _class_key(layers: list[VectorLayer], request: ReadRequest, tally: Tally) -> str | None:
    key = find_class_key(layers, request.label_key)
    rows = [row for layer in layers for row in layer.properties]
    if key is None and request.label_name is None and rows:
        filled = sorted({k for row in rows for k, value in row.items() if class_of(value)})
        raise DataError(
            "no property of the features is called like a class; there are: "
            f"{', '.join(filled[:LISTED]) or 'none'}",
            hint="say which with -s extract_masks.label_key=PROPERTY, or give all one class with "
            "-s extract_masks.label_name=NAME",
        )
    if request.label_key is None and request.label_name is not None:
        return None
    if key is not None:
        tally.notes.append(f"geotiff: the property {key!r} names the class")
    return key


def _labelled(
    layer: VectorLayer, key: str | None, request: ReadRequest, names: LabelNames
) -> Layer:
    """The layer with its classes, and the features that can be used nowhere."""
    bad = dict(layer.problems)
    labels: list[str | None] = []
    lost: dict[int, Problem] = {}
    for index, row in enumerate(layer.properties):
        value = class_of(row.get(key)) if key is not None else None
        try:
            if index in bad:
                raise bad[index]
            labels.append(_label(value or request.label_name, key, row, names))
        except Problem as problem:
            lost[index] = problem
            labels.append(None)
    return Layer(layer, labels, lost)


def _label(name: str | None, key: str | None, row: Mapping[str, Any], names: LabelNames) -> str:
    if name is None:
        raise Problem("NoClass", f"the property {key!r} is empty", "name the class there")
    if row.get("kind") == "stuff":
        names.declare(name, stuff=True)
    return names.resolve(name)


# ---------------------------------------------------------------- instances


def _only_rectangles(placed: list[tuple[Scene, list[Placed] | None]]) -> bool:
    features = [one for _, found in placed for one in found or ()]
    return bool(features) and all(is_rectangle(one.geometry) for one in features)


def _keep(
    scene: Scene,
    layout: Layout,
    features: list[Placed],
    rectangles: bool,
    request: ReadRequest,
    names: LabelNames,
    tally: Tally,
) -> None:
    info = scene.info
    instances: list[Instance] = []
    for one in features:
        label = one.layer.labels[one.index]
        assert label is not None, "features without a class are no features of a scene"
        row = one.layer.layer.properties[one.index]
        kind = "stuff" if names.is_stuff(label) else str(row.get("shape") or "")
        if not kind and rectangles:
            kind = "box"
        try:
            faces = request.heading is True and not names.is_symmetric(label)
            size, affine = (info.width, info.height), info.affine or PIXELS
            instances.append(instance_of(label, one.geometry, kind, row, affine, size, faces=faces))
        except Problem as problem:
            if not one.own and problem.name in ("ZeroArea", "OutsideImage"):
                tally.remark("a label that reaches less than a pixel into an image was left out")
                continue
            tally.label_failed(one.layer.layer.item(one.index), problem)
    layout = replace(layout, instances=paint_order(instances, names))
    split = split_of_path(Path(scene.name).parent.as_posix())
    sample = Sample(scene.name, layout, scene.name, split=split, geo=info.geo)
    tally.keep(sample, labels=len(instances))


def _tell_unused(layer: Layer, tally: Tally) -> None:
    """One failure a layer for all features that lie in no scene."""
    usable = {k for k, label in enumerate(layer.labels) if label is not None}
    unused = len(usable - layer.used)
    if unused:
        problem = Problem(
            "OutsideScenes",
            f"{unused} of {len(layer.labels)} features lie in none of the images",
            "check the CRS of labels and images, or leave them",
        )
        tally.label_failed(layer.layer.name, problem, unused)


# ---------------------------------------------------------------- the format


def _detect(source: Source) -> Found | None:
    files = [f for f in source.files(".geojson", ".gpkg", ".json") if vector_files(f)]
    folder = source.path if source.path.is_dir() else source.path.parent
    if not files or not (source.labels is not None or list_files(folder, RASTER_SUFFIXES)):
        return None
    listed = ", ".join(relative(f, source.base) for f in files[:3])
    return Found(f"{listed} with features", "vector", len(files))


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    mask = instance.mask
    if mask is not None:
        mask = mask.window(0, 0, layout.width, layout.height)
    if classes.is_stuff(instance.label):
        return None if mask is None else Instance(instance.label, mask=mask)
    kept = things_only(instance, layout, classes)
    if kept is None:
        return None
    box = kept.box
    if kept.mask is not None:
        box = kept.mask.box  # its outline is written whole, also over the border
    elif kept.quad is not None:
        box = bounds(kept.quad)
    return Instance(
        kept.label,
        box,
        kept.quad,
        mask,
        heading_rad=None if kept.quad is None else kept.heading_rad,
        truncated=kept.truncated,
        difficult=kept.difficult,
        iscrowd=kept.iscrowd,
    )


FORMAT = Format(
    "geotiff",
    "`images/SPLIT/*.tif` with CRS and position, `labels/SPLIT/*.geojson` in the same CRS; "
    "synthetic images say so in their tags",
    read_geotiff,
    lambda _: GeoTiffWriter(),
    _detect,
    Holds(_held, frozenset({"geo", "gsd_m"})),
    leaves_out=why_left_out,
)
