"""`train.batch: cf-comp`, single-category views and class balance: batches, losses, the command."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from rsgen.augment import AugmentSettings
from rsgen.condition import ConditionEncoding, encode
from rsgen.data import (
    CategorySettings,
    TrainingImages,
    category_view,
    class_rarity,
    image_weights,
)
from rsgen.errors import DataError, Stopped, UsageError
from rsgen.losses import foreground_cells, local_error, painting_error, weighted_error
from rsgen.mask import Mask
from rsgen.models.base import read_card
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.prompts import make_prompt
from rsgen.records import Instance, Layout, Sample
from rsgen.reporting import NullReporter
from rsgen.settings import TrainConfig
from rsgen.train import train
from rsgen.training.composites import composite_settings, most_composites
from rsgen.training.latents import LatentViews
from rsgen.training.pairs import PairSettings, TrainingPairs
from rsgen.training.tally import Tally
from tests.build import CLASSES, config, layout, picture, sample, sample_run, water
from tests.build_models import SIZE, small_model
from tests.build_training import Told, history, stop_later, train_job

CPU = torch.device("cpu")
GROUP = 8
PLACES = [(x, y) for y in (1, 12, 22) for x in (1, 12, 22)]
LOOSE: dict[str, Any] = {
    "train.batch": "cf-comp",
    "train.cf_comp.max_overlap": 1.0,
    "train.cf_comp.max_radiometry": 1.0,
}
job = partial(train_job, **{"train.augment": False, "execution.threads": 1})


def block(label: str, x: int, y: int, side: int = 7) -> Instance:
    mask = Mask.from_array(np.ones((side, side), dtype=bool), x, y)
    assert mask is not None
    return Instance(label, box=mask.box, mask=mask)


def rows(count: int = 9, **more: Any) -> list[Sample]:
    """A plane each at its own place, a tank in every third image."""
    found = []
    for k in range(count):
        things = [block("plane", *PLACES[k % 9])]
        if k % 3 == 0:
            things.append(block("storage-tank", *PLACES[(k + 4) % 9], 5))
        found.append(sample(f"{k}.png", layout(things, (SIZE, SIZE)), **more))
    return found


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return small_model(4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_run(tmp_path_factory.mktemp("run"), rows()).path


def pairs_of(
    model: StableDiffusion,
    samples: list[Sample],
    *,
    views: int = 0,
    batch_size: int = GROUP,
    pair: dict[str, Any] | None = None,
    folder: Path | None = None,
    **keys: Any,
) -> TrainingPairs:
    """Pairs as `train` builds them, of samples whose pixels show their labels."""
    settings = config(**keys).train
    images = TrainingImages(samples, lambda s: picture(s.layout, int(s.id[:-4])), CLASSES)
    made = LatentViews(
        images,
        model.vae,
        size=SIZE,
        seed=3,
        views=views,
        settings=AugmentSettings(flips=True),
        with_pixels=True,
    )
    if views:
        assert folder is not None
        made.fill(Accelerator(cpu=True), folder / "latents", NullReporter(), lambda: None)
    encoding = ConditionEncoding.for_classes("classes", CLASSES)
    composites = composite_settings(settings, samples, CLASSES, seed=3, batch_size=batch_size)
    values = {
        "seed": 3,
        "size": SIZE,
        "caption_dropout": 0.0,
        "hint_dropout": 0.0,
        "object_weight": 2.0,
        "timesteps": "uniform",
        "foreground": "things",
        "composites": composites,
        **(pair or {}),
    }
    return TrainingPairs(
        made,
        CLASSES,
        PairSettings(**values),
        tokenize=model.tokens,
        prompt=lambda of: make_prompt(of, CLASSES),
        encode=lambda of: encode(of, (SIZE, SIZE), encoding, CLASSES),
        levels=1000,
    )


def parts_of(batches: list[dict[str, Tensor]], real: int) -> tuple[list[Any], list[Any]]:
    """Samples and composites of batches with `real` samples each, as (name, values) rows."""
    samples: list[Any] = []
    composites: list[Any] = []
    for batch in batches:
        for k in range(len(batch["latents"])):
            row = {name: values[k] for name, values in batch.items()}
            (samples if k < real else composites).append(row)
    return samples, composites


def same(one: list[Any], other: list[Any], *, atol: float = 0.0) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol, msg=name)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("views", [0, 2], ids=["made anew", "cached latents"])
def test_real_samples_are_those_of_a_plain_batch(
    tmp_path: Path, model: StableDiffusion, views: int
) -> None:
    """Catches draws that shift, and real images that composites push out."""
    keys: dict[str, Any] = {"views": views, "folder": tmp_path}
    plain = pairs_of(model, rows(), **keys).batch(2, 0, GROUP, CPU)
    pairs = pairs_of(model, rows(), **keys, **LOOSE)
    batch = pairs.batch(2, 0, GROUP, CPU)
    assert len(batch["latents"]) == GROUP + 4 and pairs.composites is not None
    for name, values in plain.items():
        assert torch.equal(batch[name][:GROUP], values), name
    made = [one for k in range(GROUP) if (one := pairs.composites.of(2 * GROUP + k)) is not None]
    assert len(made) == 4
    pixels = np.stack([one.image for one in made])
    torch.testing.assert_close(
        batch["latents"][GROUP:], torch.from_numpy(pairs.views.encode(pixels))
    )
    shown = (batch["image"][GROUP:].permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(shown, pixels)
    prompts = [make_prompt(one.layout, CLASSES) for one in made]
    assert torch.equal(batch["tokens"][GROUP:], model.tokens(prompts))
    for k, one in enumerate(made):
        names = {i.label for i in one.layout.instances}
        assert all(name.replace("-", " ") in prompts[k] for name in names)
        assert len(one.layout.instances) > 1
        cells = foreground_cells(one.layout, CLASSES, 4)
        assert np.array_equal(batch["foreground"][GROUP + k, 0].numpy(), cells)


@pytest.mark.parametrize("views", [0, 2], ids=["made anew", "cached latents"])
def test_partners_are_the_views_that_are_learned_from(
    tmp_path: Path, model: StableDiffusion, views: int
) -> None:
    """Catches objects of a view that nobody drew, where only its latent is kept."""
    keys = [(0, 5), (3, 2), (7, 2**30 + 1)]
    made = pairs_of(model, rows(), views=views, folder=tmp_path).views
    for looked, got in zip(made.look(keys), made.get(keys), strict=True):
        assert got.pixels is not None and np.array_equal(looked.image, got.pixels)
        assert (looked.layout, looked.prompt) == (got.layout, got.prompt)


@pytest.mark.parametrize("share", [1, 2, 4])
def test_composites_do_not_depend_on_how_a_batch_is_cut(model: StableDiffusion, share: int) -> None:
    """Catches partners that are sought on a rank alone: a batch of one would never have any,
    and ranks that count the same though one has more samples."""
    whole = pairs_of(model, rows(), **LOOSE).batch(1, 0, GROUP, CPU)
    cut = pairs_of(model, rows(), **LOOSE)
    batches = [cut.batch(1, at, at + share, CPU) for at in range(0, GROUP, share)]
    assert "scale" not in whole
    scales = [batch.pop("scale") for batch in batches]
    parts = [
        (scale * batch["noise"].mean(dim=(1, 2, 3))).mean()
        for scale, batch in zip(scales, batches, strict=True)
    ]
    torch.testing.assert_close(sum(parts) / len(parts), whole["noise"].mean())
    samples, composites = parts_of([whole], GROUP)
    other_samples, other_composites = parts_of(batches, share)
    # convolutions of another batch size round differently
    same(samples, other_samples, atol=1e-5)
    same(composites, other_composites, atol=1e-5)
    assert len(composites) == 4


def test_a_batch_of_one_has_partners_in_other_steps(model: StableDiffusion) -> None:
    """Catches a queue that depends on the steps that this process has seen."""
    pairs = pairs_of(model, rows(), batch_size=1, **LOOSE)
    counts = [len(pairs.batch(step, 0, 1, CPU)["latents"]) for step in range(2 * GROUP)]
    assert set(counts) == {1, 2} and sum(counts) == 2 * GROUP + 8
    step = counts.index(2, GROUP)
    later = pairs_of(model, rows(), batch_size=1, **LOOSE).batch(step, 0, 1, CPU)
    again = pairs.batch(step, 0, 1, CPU)
    assert all(torch.equal(again[name], later[name]) for name in later)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("replaced", [False, True], ids=["beside", "in their place"])
def test_realised_rates(model: StableDiffusion, rate: float, replaced: bool) -> None:
    """Catches more composites than asked for, and batches that grow where they should not."""
    keys = {**LOOSE, "train.cf_comp.rate": rate, "train.cf_comp.replace": replaced}
    pairs = pairs_of(model, rows(), **keys)
    sizes = {len(pairs.batch(step, 0, GROUP, CPU)["latents"]) for step in range(4)}
    assert pairs.tally is not None
    counts = pairs.tally.take()
    composites = int(counts[1])
    if replaced:
        assert sizes == {GROUP} and counts[0] + composites == 4 * GROUP
    else:
        assert max(sizes) <= GROUP * (1 + rate) and counts[0] == 4 * GROUP
    # two draws of one image are no partners, so some groups of eight fall short
    assert 0.7 * rate * 4 * GROUP <= composites <= rate * 4 * GROUP


@pytest.mark.parametrize(
    ("keys", "share", "expected"),
    [
        ({}, 8, 0),
        ({"train.batch": "cf-comp"}, 8, 4),
        ({"train.batch": "cf-comp"}, 2, 2),
        ({"train.batch": "cf-comp", "train.cf_comp.replace": True}, 8, 0),
        ({"train.batch": "cf-comp", "train.cf_comp.group": 32}, 8, 8),
    ],
    ids=["plain", "one rank", "four ranks", "in their place", "a wide group"],
)
def test_memory_is_counted_for_composites_too(
    keys: dict[str, Any], share: int, expected: int
) -> None:
    assert most_composites(config(**keys).train, 8, share) == expected


# ---------------------------------------------------------------- categories and balance


def test_a_category_view_by_hand() -> None:
    """Catches views of background, of specks, and a weight that is a plain share."""
    of = layout([water((SIZE, SIZE)), block("plane", 2, 2), block("ship", 20, 2, 3)], (SIZE, SIZE))
    draws: Counter[str] = Counter()
    settings = CategorySettings(weight=1.0, least_px=10)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        found = category_view(of, CLASSES, settings, {}, rng)
        draws[found[1] if found else "whole"] += 1
        if found:
            assert {i.label for i in found[0].instances} == {found[1]}
    # two classes are large enough: 3 rows, the ship's 9 pixels are none
    assert draws.keys() == {"whole", "plane", "water"}
    for name in draws:
        assert draws[name] / 3000 == pytest.approx(1 / 3, abs=0.03)
    rare = Counter(
        found[1]
        for _ in range(3000)
        if (found := category_view(of, CLASSES, settings, {"plane": 3.0, "water": 1.0}, rng))
    )
    assert rare["plane"] / rare["water"] == pytest.approx(3, rel=0.15)
    nothing = layout([], (SIZE, SIZE))
    assert all(category_view(nothing, CLASSES, settings, {}, rng) is None for _ in range(20))


def test_category_views_change_labels_and_prompt_alone(model: StableDiffusion) -> None:
    """Catches a view with the pixels of another image, and a prompt of the whole one."""
    own = rows(attributes={"prompt of plane": "A satellite image of boat"})
    whole = pairs_of(model, own).batch(0, 0, GROUP, CPU)
    pair = {"categories": CategorySettings(weight=50.0)}
    pairs = pairs_of(model, own, pair=pair)
    single = pairs.batch(0, 0, GROUP, CPU)
    for name in ("latents", "noise", "timesteps", "image", "kept"):
        assert torch.equal(single[name], whole[name]), name
    texts = model.tokens(["A satellite image of boat", "A satellite image of storage tank"])
    plain = model.tokens(["a satellite image of plane, ship"])  # the samples' own
    known = [*texts, *plain]
    found = [
        next(k for k, t in enumerate(known) if torch.equal(t, row)) for row in single["tokens"]
    ]
    assert set(found) >= {0, 1} and found.count(2) <= 2
    for k, row in enumerate(found):
        if row < 2:
            assert single["foreground"][k].sum() <= whole["foreground"][k].sum()


def test_composites_of_category_views_show_their_class_alone(model: StableDiffusion) -> None:
    """Catches a base that gets its whole labels back when something is pasted onto it."""
    pair = {"categories": CategorySettings(weight=1e9)}
    pairs = pairs_of(model, rows(), pair=pair, **LOOSE)
    assert pairs.composites is not None
    made = [one for k in range(5 * GROUP) if (one := pairs.composites.of(k)) is not None]
    assert made and all(len({i.label for i in one.layout.instances}) == 1 for one in made)


@pytest.mark.parametrize(
    ("balance", "weights"),
    [(0.0, [1, 1, 1, 1, 1]), (0.5, [1, 1, 1, 2, 1]), (1.0, [1, 1, 1, 4, 1])],
    ids=["as they are", "square root", "evened out"],
)
def test_class_balance_by_hand(balance: float, weights: list[float]) -> None:
    """Catches weights by the common class of an image, and background that is never drawn."""
    planes = [block("plane", 2, 2)]
    contents: list[list[Instance]] = [
        planes,
        planes * 3,
        planes,
        [*planes, block("ship", 12, 12)],
        [],
    ]
    samples = [sample(f"{k}.png", layout(c, (SIZE, SIZE))) for k, c in enumerate(contents)]
    rarity = class_rarity(samples, CLASSES, balance)
    assert rarity.keys() == {"plane", "ship"} and rarity["plane"] == 1
    np.testing.assert_allclose(image_weights(samples, CLASSES, rarity), weights)


def test_rare_classes_are_drawn_more_often(model: StableDiffusion) -> None:
    """Catches weights that are computed and not used."""
    samples = rows(8)
    samples[5] = replace(samples[5], layout=layout([block("ship", 3, 3)], (SIZE, SIZE)))
    shares = {}
    for balance in (0.0, 1.0):
        pairs = pairs_of(model, samples, pair={"class_balance": balance})
        items = [pairs._place(0, k)[0][0] for k in range(2000)]
        shares[balance] = items.count(5) / 2000
    assert shares[0.0] == pytest.approx(1 / 8, abs=0.02)
    # planes are in 7 images, tanks in 3, the ship in 1: weights 7 + 3 * 7/3 + 4 * 1 = 18
    assert shares[1.0] == pytest.approx(7 / 18, abs=0.03)


@pytest.mark.parametrize("balance", [0.0, 1.0], ids=["weights alone", "with class balance"])
def test_weights_of_a_filter_are_how_often_an_image_is_drawn(
    model: StableDiffusion, balance: float
) -> None:
    """Catches weights that are stored and not used, or that class balance puts aside."""
    samples = [replace(s, scores={"weight": w}) for s, w in zip(rows(3), (0, 0.5, 1), strict=True)]
    rarity = class_rarity(samples, CLASSES, balance)
    asked = np.array([0, 0.5, 1]) * image_weights(samples, CLASSES, rarity)
    pairs = pairs_of(model, samples, pair={"class_balance": balance})
    items = [pairs._place(0, k)[0][0] for k in range(2000)]
    shares = np.bincount(items, minlength=3) / 2000
    assert shares[0] == 0
    np.testing.assert_allclose(shares, asked / asked.sum(), atol=0.03)


def test_a_filter_that_leaves_no_weight_is_told(model: StableDiffusion) -> None:
    """Catches shares divided by nothing: the last image alone would be learned from."""
    nothing = [replace(s, scores={"weight": 0.0}) for s in rows(2)]
    with pytest.raises(DataError, match="each of 2 training images has weight 0"):
        pairs_of(model, nothing)


# ---------------------------------------------------------------- the local loss


def test_foreground_cells_keep_specks() -> None:
    """Catches mean or nearest resizing, which lose an object smaller than a cell."""
    of = layout([water((8, 8)), block("plane", 1, 1, 1), block("ship", 3, 3, 2)], (8, 8))
    np.testing.assert_array_equal(foreground_cells(of, CLASSES, 4), [[1, 1], [1, 1]])
    speck = layout([water((8, 8)), block("plane", 6, 1, 1)], (8, 8))
    np.testing.assert_array_equal(foreground_cells(speck, CLASSES, 4), [[0, 1], [0, 0]])
    np.testing.assert_array_equal(foreground_cells(speck, CLASSES, 4, True), [[0, 1], [1, 1]])
    assert not foreground_cells(layout([], (8, 8)), CLASSES, 4).any()


def test_the_local_loss_by_hand() -> None:
    """Catches a mean over the image, a sum over the batch, and a division by nothing."""
    target = torch.zeros(3, 2, 2, 2)
    prediction = torch.zeros(3, 2, 2, 2)
    prediction[0, :, 0, 0] = torch.tensor([3.0, 1.0])  # squares 9 and 1 on one cell
    prediction[0, :, 1, 1] = 100.0  # on the background
    prediction[1] = 2.0
    foreground = torch.zeros(3, 1, 2, 2)
    foreground[0, 0, 0, 0] = 1
    foreground[1] = 1
    expected = torch.tensor([5.0, 4.0, 0.0])
    torch.testing.assert_close(local_error(prediction, target, foreground), expected)
    batch = {"weights": torch.ones(3, 1, 2, 2), "foreground": foreground}
    whole = weighted_error(prediction, target, batch["weights"])
    both = painting_error(prediction, target, batch, 0.5)
    torch.testing.assert_close(both, whole + 0.5 * expected)
    del batch["foreground"]
    torch.testing.assert_close(painting_error(prediction, target, batch, 0.0), whole)


# ---------------------------------------------------------------- what is told


def test_the_tally_by_hand() -> None:
    """Catches a histogram of images, of the timed batch, or of one rank."""
    tally, told = Tally(CLASSES, composed=True), Told()
    plane, both = (Layout(8, 8, (block("plane", 0, 0, 2),)), layout([], (8, 8)))
    both = replace(both, instances=(block("plane", 0, 0, 2), block("ship", 4, 4, 2)))
    tally.add(0, plane, False)
    tally.forget()
    for step in (4, 4, 5):
        tally.add(step, plane, False)
    tally.tell(2 * tally.take(), 5, False, told)  # of two ranks
    assert not tally.take().any() and not told.texts
    tally.add(5, both, True)
    tally.add_pairs(1, {"semantic": 2, "pixel": 1})
    tally.tell(2 * tally.take(), 6, True, told)
    assert told.metrics == {"composite share": [0.0, 1.0]}
    assert told.texts == [
        "info: steps 5 to 6: 6 real samples and 2 composites (25% of what was learned from); "
        "objects in real samples: plane 6",
        "info: objects in composites: plane 2, ship 2",
        "info: of 8 pairs looked at 25% went together, 0% had better partners, 0% are of one "
        "image, 50% share no class, 0% overlap or are too empty or full, 25% look or measure too "
        "different",
    ]


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"train.method": "of-diff", "train.recon_augment": True},
        {"train.task": "base"},
        {"train.views": 0, "train.accumulate": 2, "execution.batch_size": 1},
        {
            "train.cf_comp.class_pairs": "seen",
            "train.cf_comp.feather_px": 0.8,
            "train.category_weight": 1.0,
            "train.class_balance": 0.5,
            "train.cf_comp.replace": True,
        },
    ],
    ids=["plain", "of-diff", "base", "one at a time", "everything"],
)
def test_it_trains_and_says_what_it_learned_from(
    tmp_path: Path, run: Path, base: Path, keys: dict[str, Any]
) -> None:
    """Catches a combination that breaks, and rates that nobody is told."""
    told = Told()
    summary = train(job(tmp_path / "out", run, base, reporter=told, **{**LOOSE, **keys}))
    assert summary.exit_code == 0 and len(history(summary)) == 4
    assert 0 < told.metrics["composite share"][-1] <= 0.5
    assert any("objects in composites: plane" in text for text in told.texts)
    assert Path(summary.artifacts["composites"]).is_file()
    card = read_card(tmp_path / "out" / "model")
    assert card is not None and card.training["batch"] == "cf-comp (reconstruction)"


def test_an_interrupted_run_has_the_losses_of_an_uninterrupted_one(
    tmp_path: Path, run: Path, base: Path
) -> None:
    """Catches partners that depend on where a run was started."""
    keys = {**LOOSE, "train.category_weight": 0.5, "train.class_balance": 0.5}
    whole = train(job(tmp_path / "whole", run, base, **keys))
    with pytest.raises(Stopped):
        train(
            job(
                tmp_path / "parts",
                run,
                base,
                control=stop_later(tmp_path / "parts"),
                **keys,
            )
        )
    assert history(train(job(tmp_path / "parts", run, base, **keys))) == history(whole)


def test_the_local_loss_joins_plain_batches(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches a weight that is read and not used."""
    plain = history(train(job(tmp_path / "plain", run, base, **{"train.max_steps": 1})))
    keys = {"train.max_steps": 1, "train.local_loss": 0.5}
    local = history(train(job(tmp_path / "local", run, base, **keys)))
    assert local[0] > plain[0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"train.batch": "plain", "train.cf_comp.rate": 0.3}, "belongs to train.batch=cf-comp"),
        ({"train.task": "autoencoder"}, r"train\.batch=cf-comp is about labels"),
        (
            {"train.batch": "plain", "train.task": "autoencoder", "train.class_balance": 0.5},
            r"train\.class_balance=0\.5 is about labels",
        ),
        ({"train.cf_comp.foreground": [0.5, 0.1]}, "least share"),
        ({"train.cf_comp.class_pairs": ["plane"]}, "'plane' is no pair"),
        ({"train.cf_comp.class_pairs": ["plane+zebra"]}, "unknown class 'zebra'"),
    ],
    ids=["without the batch", "autoencoder", "balance", "bounds", "half a pair", "a stranger"],
)
def test_what_cannot_be_is_said_before_anything_starts(
    tmp_path: Path, run: Path, base: Path, keys: dict[str, Any], words: str
) -> None:
    """Catches a setting that does nothing, and a traceback where the user can mend it."""
    with pytest.raises((UsageError, DataError), match=words):
        train(job(tmp_path / "out", run, base, **{"train.batch": "cf-comp", **keys}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (rows(1), "has one for training"),
        (
            [
                replace(s, layout=layout([Instance("plane", box=s.layout.instances[0].box)]))
                for s in rows(3)
            ],
            "no object has one of its own",
        ),
    ],
    ids=["one image", "boxes"],
)
def test_sets_without_partners_are_refused(
    tmp_path: Path, base: Path, samples: list[Sample], words: str
) -> None:
    """Catches a run of hours that never composes anything."""
    built = sample_run(tmp_path / "run", samples)
    with pytest.raises(DataError, match=words):
        train(job(tmp_path / "out", built.path, base, **{"train.batch": "cf-comp"}))


def test_no_composite_at_all_is_a_warning(tmp_path: Path, run: Path, base: Path) -> None:
    told = Told()
    keys = {"train.batch": "cf-comp", "train.cf_comp.foreground": [0.99, 1.0]}
    summary = train(job(tmp_path / "out", run, base, reporter=told, **keys))
    assert any(t.startswith("warning: no composite was made") for t in told.texts)
    assert "composites" not in summary.artifacts


def test_defaults_are_plain() -> None:
    """Catches a new kind of batch that everybody gets."""
    settings = TrainConfig()
    assert (settings.batch, settings.local_loss, settings.category_weight) == ("plain", "auto", 0)
    assert settings.class_balance == 0
