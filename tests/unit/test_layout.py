"""Templates as files, label choice, the leakage guard, and what planners promise."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsgen.errors import DataError, UsageError
from rsgen.geometry import Box, as_array
from rsgen.layout import (
    Perturbation,
    layout_template_names,
    load_templates,
    plan_from_layout,
    plan_from_pool,
)
from rsgen.layout.ground import Ground
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample
from tests import build, layout_build
from tests.layout_build import SCENE_LIKE

POOL = layout_build.pool()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def things(layout: Layout, classes: ClassTable = SCENE_LIKE) -> list[Instance]:
    return [i for i in layout.instances if not classes.is_stuff(i.label)]


class TestTemplates:
    def test_all_shipped_templates_load(self) -> None:
        names = layout_template_names()
        assert {t.name for t in load_templates()} == set(names) and len(names) >= 10

    @pytest.mark.parametrize(
        ("label", "expected"),
        [
            ("airplane", {"apron", "light-park", "free"}),
            ("boat", {"quay", "marina", "open-water", "free"}),
            ("zebra-crossing", {"free"}),
        ],
    )
    def test_automatic_choice_by_any_spelling(self, label: str, expected: set[str]) -> None:
        """Catches real sets whose class is `airplane` getting no apron."""
        assert {t.name for t in load_templates((), ClassTable.of(label))} == expected

    def test_names_and_files(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("pattern: free\nlabels: [plane]\nground: grass\n")
        apron, mine = load_templates(["apron", file])
        assert (apron.name, mine.name) == ("apron", "mine")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("pattern: rowz\nlabels: [plane]", "rowz"),
            ("labels: [plane]", "pattern"),
            ("pattern: free\nlabels: []", "labels"),
            ("pattern: free\nlabels: [plane]\nspacing: 3", "spacing"),
            ("pattern: free\nlabels: [plane]\ncount: [5, 2]", "count"),
            ("pattern: rows\nlabels: [plane]\ngap: [-1, 2]", "gap"),
            ("pattern: free\nlabels: [plane]\ntruncate: 0", "truncate"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, text: str, problem: str) -> None:
        file = tmp_path / "bad.yaml"
        file.write_text(text)
        with pytest.raises(UsageError, match=problem):
            load_templates([file])

    def test_unknown_name_and_none_fitting(self) -> None:
        with pytest.raises(UsageError, match="did you mean apron"):
            load_templates(["aprn"])
        with pytest.raises(UsageError, match="ship"):
            load_templates(["apron"], ClassTable.of("ship"))

    def test_every_template_places_its_objects(self) -> None:
        """Catches a pattern that paints ground and puts nothing on it."""
        for template in load_templates((), SCENE_LIKE):
            classes = SCENE_LIKE
            pool = POOL
            if template.name == "helipads":
                classes = ClassTable((ObjectClass("helicopter"), *SCENE_LIKE.classes[7:]))
                pool = layout_build.pool(classes, ("helicopter",))
            placed = [
                len(
                    things(
                        plan_from_pool(pool, classes, [template], rng(k), (160, 160)).layout,
                        classes,
                    )
                )
                for k in range(6)
            ]
            assert min(placed) >= 1, template.name


class TestFromPool:
    def test_weights_choose_the_class(self) -> None:
        templates = load_templates((), SCENE_LIKE)
        for k in range(8):
            plan = plan_from_pool(
                POOL, SCENE_LIKE, templates, rng(k), (128, 128), labels={"boat": 2.0}
            )
            assert "ship" in {i.label for i in things(plan.layout)}
            assert plan.layout.scene == "harbour"

    def test_equal_shares_without_weights(self) -> None:
        """Catches classes with many masks crowding out rare ones."""
        templates = load_templates((), SCENE_LIKE)
        seen: Counter[str] = Counter()
        for k in range(60):
            plan = plan_from_pool(POOL, SCENE_LIKE, templates, rng(k), (96, 96))
            seen.update({i.label for i in things(plan.layout)})
        assert min(seen[label] for label in POOL.labels) >= 3

    def test_empty_layouts_keep_their_ground(self) -> None:
        templates = load_templates(["quay"], SCENE_LIKE)
        plan = plan_from_pool(POOL, SCENE_LIKE, templates, rng(), (128, 128), empty=1.0)
        assert things(plan.layout) == [] and "empty" in plan.notes and plan.sources == ()
        assert {i.label for i in plan.layout.instances} >= {"water", "pavement"}

    @pytest.mark.parametrize("gsd_m", [None, 0.5])
    def test_real_classes_without_stuff(self, gsd_m: float | None) -> None:
        """One class `airplane` in pixels: no ground, sizes as in the source image."""
        classes = ClassTable.of("airplane")
        pool = layout_build.pool(classes, ("airplane",), gsd_m=gsd_m)
        plan = plan_from_pool(pool, classes, load_templates((), classes), rng(3), (256, 256))
        assert plan.template in {"apron", "light-park"} and plan.layout.gsd_m == gsd_m
        assert {i.label for i in plan.layout.instances} == {"airplane"}
        for instance in plan.layout.instances:
            corners = as_array(instance.quad or ())
            assert 38 <= np.linalg.norm(corners[1] - corners[2]) <= 46

    def test_pool_and_model_tables_meet_by_alias(self) -> None:
        pool = layout_build.pool(ClassTable((ObjectClass("airplane", ("plane",)),)), ("airplane",))
        plan = plan_from_pool(pool, SCENE_LIKE, (), rng(1), (128, 128))
        assert {i.label for i in things(plan.layout)} == {"plane"}

    def test_gsd_scales_objects(self) -> None:
        """A 20 m plane is 20 px long at 1 m and 50 px at 0.4 m."""
        for gsd_m, low, high in ((1.0, 18.5, 22.5), (0.4, 47.0, 55.0)):
            plan = plan_from_pool(
                POOL,
                SCENE_LIKE,
                load_templates(["light-park"]),
                rng(2),
                (200, 200),
                gsd_m,
                labels={"plane": 1.0},
            )
            for plane in (i for i in things(plan.layout) if i.label == "plane"):
                corners = as_array(plane.quad or ())
                assert low <= np.linalg.norm(corners[1] - corners[2]) <= high

    def test_objects_larger_than_the_view_are_shrunk_and_counted(self) -> None:
        pool = layout_build.pool(scale=8.0)
        plan = plan_from_pool(
            pool, SCENE_LIKE, (), rng(), (64, 64), labels={"plane": 1.0}, gsd_m=0.5
        )
        assert plan.counts["shrunk"] >= 1 and any("shrunk" in n for n in plan.notes)

    def test_truncation_only_when_asked_for(self, tmp_path: Path) -> None:
        file = tmp_path / "cut.yaml"
        file.write_text("pattern: free\nlabels: [ship]\ncount: [30, 30]\ntruncate: 0.4\n")
        cut, shares = 0, []
        for k in range(10):
            plan = plan_from_pool(
                POOL, SCENE_LIKE, load_templates([file]), rng(k), (96, 96), labels={"ship": 1}
            )
            for ship in things(plan.layout):
                cut += ship.truncated
                assert ship.mask is not None and ship.box == ship.mask.box
                if ship.truncated:
                    corners = as_array(ship.quad or ())
                    whole = np.linalg.norm(corners[1] - corners[2]) * np.linalg.norm(
                        corners[1] - corners[0]
                    )
                    shares.append(ship.mask.area / (whole * 0.75))
        assert cut >= 3 and min(shares) > 0.3

    def test_overlap_only_when_asked_for(self, tmp_path: Path) -> None:
        """Masks stay disjoint even then: the covered part is cut away and noted."""
        file = tmp_path / "crowd.yaml"
        file.write_text(
            "pattern: free\nlabels: [plane]\ncount: [40, 40]\nmax_overlap: 0.6\nspacing_px: 0\n"
        )
        plan = plan_from_pool(
            POOL, SCENE_LIKE, load_templates([file]), rng(), (128, 128), labels={"plane": 1}
        )
        found = things(plan.layout)
        total = sum(i.mask.to_array(128, 128).astype(int) for i in found if i.mask is not None)
        assert np.max(total) == 1
        assert any("occluded" in i.attributes for i in found)

    @pytest.mark.parametrize(
        ("labels", "templates", "problem"),
        [
            ({"submarine": 1.0}, (), "submarine"),
            ({"ship": 1.0}, ("apron",), "no template"),
            ({"ship": -1.0}, (), "positive"),
            ({"ship": math.nan}, (), "positive"),
        ],
    )
    def test_bad_weights(
        self, labels: dict[str, float], templates: tuple[str, ...], problem: str
    ) -> None:
        chosen = load_templates(templates) if templates else ()
        with pytest.raises(UsageError, match=problem):
            plan_from_pool(POOL, SCENE_LIKE, chosen, rng(), (64, 64), labels=labels)

    def test_no_common_class(self) -> None:
        with pytest.raises(DataError, match="crane"):
            plan_from_pool(POOL, ClassTable.of("crane"), (), rng(), (64, 64))

    def test_ships_stay_in_the_water(self) -> None:
        for k in range(12):
            plan = plan_from_pool(
                POOL, SCENE_LIKE, load_templates(["quay"]), rng(k), (128, 128), labels={"ship": 1}
            )
            water = next(i for i in plan.layout.instances if i.label == "water")
            assert water.mask is not None
            near = np.pad(water.mask.to_array(128, 128), 2)
            for ship in (i for i in things(plan.layout) if i.label == "ship"):
                assert ship.mask is not None
                x, y = (int(v) for v in ship.mask.box.center)
                assert near[y - 8 : y + 13, x - 8 : x + 13].any()


class TestFromLayout:
    def sample(self, **more: object) -> Sample:
        return replace(build.sample("a.png"), **more)  # type: ignore[arg-type]

    def test_resample_keeps_labels_and_changes_masks(self) -> None:
        sample = self.sample()
        plan = plan_from_layout(sample, POOL, rng(), classes=SCENE_LIKE)
        before = {i.label: i for i in things(sample.layout)}
        after = {i.label: i for i in things(plan.layout)}
        assert set(after) == set(before) == {"plane", "ship", "storage-tank"}
        for label, instance in after.items():
            assert instance.mask != before[label].mask
            corners = as_array(sorted(instance.quad or ()))
            assert corners == pytest.approx(as_array(sorted(before[label].quad or ())))
            assert instance.heading_rad == pytest.approx(before[label].heading_rad)
        assert "a.png" in plan.sources and plan.counts.get("same_source", 0) == 0

    def test_own_image_is_never_used(self) -> None:
        """Catches the leak: all masks come from the image whose layout is reused."""
        pool = layout_build.pool(sources=("a.png#0,0",))
        plan = plan_from_layout(self.sample(), pool, rng(), classes=SCENE_LIKE)
        assert things(plan.layout) == [] and plan.counts["dropped"] == 3
        assert plan.notes == (
            "plane without a mask from another image: 1",
            "ship without a mask from another image: 1",
            "storage-tank without a mask from another image: 1",
        )
        allowed = plan_from_layout(
            self.sample(), pool, rng(), classes=SCENE_LIKE, allow_same_source=True
        )
        assert allowed.counts["same_source"] == 3

    def test_without_a_pool_nothing_changes_and_it_is_counted(self) -> None:
        sample = self.sample()
        plan = plan_from_layout(sample, None, rng(), classes=SCENE_LIKE)
        assert sorted(things(plan.layout), key=repr) == sorted(things(sample.layout), key=repr)
        assert plan.counts == {"placed": 3, "same_source": 3}

    def test_labels_without_masks_are_filled(self) -> None:
        """YOLO boxes alone are a layout too."""
        layout = Layout(40, 40, (Instance("boat", box=Box(4, 6, 24, 14)),))
        own = plan_from_layout(Sample("x", layout), None, rng())
        assert own.layout.instances[0].mask is not None
        assert own.layout.instances[0].mask.area == 160
        swapped = plan_from_layout(Sample("x", layout), POOL, rng(), classes=SCENE_LIKE)
        box = swapped.layout.instances[0].box
        assert box is not None and abs(box.width - 20) <= 1 and abs(box.height - 8) <= 1

    def test_perturb_moves_labels_with_their_objects(self) -> None:
        sample = self.sample()
        amount = Perturbation(drop=0.0, duplicate=0.0)
        moved = 0
        for k in range(8):
            plan = plan_from_layout(
                sample, None, rng(k), mode="perturb", classes=SCENE_LIKE, amount=amount
            )
            for instance in things(plan.layout):
                assert instance.mask is not None and instance.quad is not None
                centre = as_array(instance.quad).mean(axis=0)
                rows, columns = np.nonzero(instance.mask.to_array(64, 64))
                assert abs(columns.mean() + 0.5 - centre[0]) < 1.2
                assert abs(rows.mean() + 0.5 - centre[1]) < 1.2
                old = next(i for i in sample.layout.instances if i.label == instance.label)
                moved += bool(np.abs(centre - as_array(old.quad or ()).mean(axis=0)).max() > 1)
        assert moved >= 12

    def test_drop_and_duplicate(self) -> None:
        sample = self.sample()
        none = plan_from_layout(
            sample,
            None,
            rng(),
            mode="perturb",
            classes=SCENE_LIKE,
            amount=Perturbation(drop=1.0),
        )
        assert things(none.layout) == [] and none.counts["dropped"] == 3
        wide = Sample("w", Layout(256, 256, (build.instance("plane", 128, 128, size=(256, 256)),)))
        twice = plan_from_layout(
            wide,
            None,
            rng(),
            mode="perturb",
            classes=SCENE_LIKE,
            amount=Perturbation(drop=0.0, duplicate=1.0),
        )
        assert len(things(twice.layout)) == 2 and twice.counts["doubled"] == 1

    def test_ground_closes_where_objects_left(self) -> None:
        """Catches holes in the shape of the old objects, which a model would fill with them."""
        size = (64, 64)
        ship = build.instance("ship", 32, 48, 20, 8, 0.0, size=size)
        assert ship.mask is not None
        pixels = np.zeros((64, 64), dtype=bool)
        pixels[32:] = True
        pixels &= ~ship.mask.to_array(64, 64)
        water = Instance("water", mask=type(ship.mask).from_array(pixels))
        plan = plan_from_layout(
            Sample("s", Layout(64, 64, (water, ship))),
            None,
            rng(),
            mode="perturb",
            classes=SCENE_LIKE,
            amount=Perturbation(drop=1.0),
        )
        assert [i.label for i in plan.layout.instances] == ["water"]
        assert plan.layout.instances[0].mask is not None
        assert plan.layout.instances[0].mask.area == 32 * 64

    def test_unknown_mode(self) -> None:
        with pytest.raises(UsageError, match="shuffle"):
            plan_from_layout(self.sample(), None, rng(), mode="shuffle")  # type: ignore[arg-type]


def test_ground_pad_and_margin() -> None:
    """A margin keeps masks apart by that many pixels."""
    ground = Ground(64, 64, SCENE_LIKE, rng(), spacing_px=3)
    mask = build.ellipse_mask(32, 32, 10, 10)
    ground.occupy(mask)
    assert ground.taken[32, 32] == 1 and ground.taken[32, 39] == 1 and ground.taken[32, 40] == 0
