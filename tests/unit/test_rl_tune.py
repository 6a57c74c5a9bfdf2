"""rl-tune on the small model: what it learns, keeps, refuses and says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rsgen.errors import SetupError, Stopped, UsageError
from rsgen.execution import run_stage
from rsgen.images import read_image
from rsgen.job import Control
from rsgen.models.base import load_model, model_hash
from rsgen.models.lora import add_adapter
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.reporting import NullReporter, RunSummary
from rsgen.rl.adapter import Learner
from rsgen.rl.advantages import group_advantages
from rsgen.rl.credit import GroupCredit
from rsgen.rl.epoch import Experience, paint_epoch
from rsgen.rl.opened import Opened
from rsgen.rl.policy import Policy
from rsgen.rl.safety import Alarm, Watch
from rsgen.rl.session import Session
from rsgen.rl.update import Updater, UpdateSettings
from rsgen.rl_tune import rl_tune
from rsgen.runs import Job
from rsgen.store import is_committed
from tests.build import config, instance, layout, sample, sample_run, water
from tests.build_judge import save_judges
from tests.build_models import SIZE, save_model
from tests.build_rl import rows_of, state_of, tune_job
from tests.unit.test_train_requests import ranks, torchrun

CANVAS = (SIZE, SIZE)


@dataclass(frozen=True)
class Place:
    """Inputs that every test shares; each makes its own outputs."""

    model: Path
    layouts: Path


def _layout(k: int) -> Any:
    plane = instance("plane", 9, 9, 10 + k % 3, 6, 0.2 * k, size=CANVAS)
    ship = instance("ship", 21, 22, 13, 5 + k % 2, 0.5 + 0.1 * k, size=CANVAS)
    return layout((water(CANVAS), plane, ship), size=CANVAS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("rl")
    names = ["train"] * 6 + ["val", "test"]
    samples = [sample(f"scene-{k}.png", _layout(k), split=name) for k, name in enumerate(names)]
    run = sample_run(root / "real", samples)
    return Place(save_model(root / "model").path, run.path)


Tune = Callable[..., RunSummary]


@pytest.fixture
def tune(place: Place, tmp_path: Path) -> Tune:
    def call(name: str = "out", **more: Any) -> RunSummary:
        return rl_tune(tune_job(tmp_path / name, place.model, place.layouts, **more))

    return call


def _same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def _starts(model: Path) -> dict[str, Tensor]:
    """Weights of both networks as a state names them."""
    names = ("unet", "controlnet")
    files = {n: load_file(model / n / "diffusion_pytorch_model.safetensors") for n in names}
    return {f"{n}.{key}": tensor for n, file in files.items() for key, tensor in file.items()}


# ---------------------------------------------------------------- what is learned


@pytest.mark.parametrize("control", ["none", "negated"])
def test_rewarded_steps_get_likelier_and_negated_ones_less(
    place: Place, tmp_path: Path, control: str
) -> None:
    """Catches a loss of the wrong sign, and advantages that go to other images.

    Dossier test 14: the change of each step's log-probability, weighted by what its image was
    worth before the control, in nats.
    """
    keys: dict[str, Any] = {
        "rl_tune.learn": "full",
        "rl_tune.control": control,
        "rl_tune.samples": 8,
    }
    opened = Opened.of(tune_job(tmp_path / "none", place.model, place.layouts, **keys))
    session = Session.start(opened, opened.plan, None)
    painted, _ = paint_epoch(
        session.policy, session.rewards, opened.layouts, session.shape, epoch=1, cursor=0, seed=3,
        storage=session.storage, after_batch=lambda count: None,
    )  # fmt: skip
    advantages = GroupCredit(opened.settings).advantages(painted)
    parameters = list(session.learner.parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    updater = Updater(
        session.policy, session.learner, optimizer,
        UpdateSettings(2, 1e6, "center", 1.0, math.inf, 0.0, 0), None,
    )  # fmt: skip
    updater.update([Experience(1, painted.batches, tuple(advantages))], 1, 0.0, lambda: None)
    plain = group_advantages(painted.rewards.plain, painted.shape.groups)
    process, gains = session.policy.process, []
    for batch, worth in zip(painted.batches, painted.own(plain), strict=True):
        predictor = session.policy.predictor(batch.drawn)
        for k, step in enumerate(batch.steps):
            with torch.no_grad():
                prediction = session.policy.predict(predictor, batch.states(k), step)
                now = process.transition(batch.states(k), prediction, step)
                change = now.log_prob(batch.actions(k)) - batch.log_probs[:, k]
            gains += list(change.double().numpy() * worth * now.mean[0].numel())
    sign = 1 if control == "none" else -1
    assert sign * float(np.mean(gains)) > 0.1


def test_equal_rewards_teach_nothing_and_end_the_run(
    tune: Tune, tmp_path: Path, place: Place
) -> None:
    """Catches advantages made of rounding, and a run that goes on where nothing can be learned."""
    reward = {"reward": "integrity", "weight": 2.0}
    keys = {"rl_tune.rewards": [reward], "rl_tune.beta": 0.0, "rl_tune.learn": "full"}
    summary = tune(**keys)
    assert (summary.exit_code, summary.counts["epochs"]) == (7, 1)
    assert any("all images have one reward" in note for note in summary.notes)
    row = rows_of(tmp_path / "out")[-1]
    assert (row["term integrity"], row["reward"], row["saturated"]) == (1.0, 2.0, 1.0)
    # what the epoch has learned, and not OUT/model, which is of the start after such a stop
    assert _same(dict(state_of(tmp_path / "out").tensors["weights"]), _starts(place.model))
    out = tmp_path / "out"
    said = f"{out / 'model'} equals {place.model}"
    assert any(
        n.startswith("nothing was better than the start") and said in n for n in summary.notes
    )
    assert _same(_weights(out / "model"), _weights(place.model))


def test_the_ratio_is_checked_before_anything_is_learned(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches learning from trajectories that another network, or another pass, has painted."""
    predict = Policy.predict

    def other(self: Policy, *given: Any) -> Tensor:
        found: Tensor = predict(self, *given)
        return found * 1.001

    monkeypatch.setattr(Policy, "predict", other)
    with pytest.raises(SetupError, match=r"the ratio is off by .* nothing was learned") as caught:
        tune()
    assert "--dtype fp32" in str(caught.value.hint) and caught.value.exit_code == 4
    assert not is_committed(tmp_path / "out") and not (tmp_path / "out" / "state").exists()


@pytest.mark.parametrize(
    "keys",
    [
        {"rl_tune.learn": "lora+controlnet", "rl_tune.storage": "fp16"},
        {"rl_tune.learn": "full", "rl_tune.storage": "bf16", "rl_tune.rule": "ddpm"},
        {"rl_tune.algorithm": "ppo", "rl_tune.ratio": "norm", "rl_tune.kl_target": 1e-9},
    ],
    ids=["controlnet-fp16", "full-bf16-ddpm", "ppo-norm"],
)
def test_the_ratio_is_one_whatever_is_stored(
    tune: Tune, tmp_path: Path, keys: dict[str, Any]
) -> None:
    """Catches latents that are rounded after they were scored, and LoRA in one pass alone."""
    tune(**keys)
    rows = [r for r in rows_of(tmp_path / "out") if "ratio off" in r]
    assert rows and all(r["ratio off"] < 1e-6 for r in rows)
    if "rl_tune.algorithm" in keys:
        # the first epoch teaches the critic alone; then beta follows the divergence
        assert [("kl" in r, "explained variance" in r) for r in rows] == [
            (False, True),
            (True, True),
            (True, True),
        ]
        assert rows[-1]["beta"] > rows[0]["beta"]


# ---------------------------------------------------------------- resume


class StopAfter(NullReporter):
    """Asks for a stop once an epoch was told of."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.reached = epoch, False

    def note(self, text: str, level: str = "info") -> None:
        self.reached |= text.startswith(f"epoch {self.epoch}:")


@pytest.mark.parametrize(
    "keys",
    [
        {"rl_tune.lag": 1, "rl_tune.learn": "lora+controlnet"},
        {"rl_tune.algorithm": "ppo"},
        # all images are sound: the first epoch of the policy ends the run, whenever it goes on
        {"rl_tune.algorithm": "ppo", "rl_tune.rewards": [{"reward": "integrity"}]},
    ],
    ids=["pool", "critic", "alarm"],
)
def test_a_stopped_run_goes_on_bit_by_bit(
    tune: Tune, tmp_path: Path, place: Place, keys: dict[str, Any]
) -> None:
    """Catches state that is not kept: critic, moments, pool, best weights, place in the layouts.

    Dossier test 16.
    """
    keys = {**keys, "rl_tune.epochs": 3, "rl_tune.evaluate_every": 1, "rl_tune.grid": 1}
    listener = StopAfter(2)
    control = Control(requested=lambda: listener.reached)
    with pytest.raises(Stopped):
        tune("parts", reporter=listener, control=control, **keys)
    assert state_of(tmp_path / "parts").epoch == 2
    page = (tmp_path / "parts" / "page.html").read_text(encoding="utf-8")
    critic = "rl_tune.algorithm" in keys  # one epoch more, in which nothing is looked at
    assert "this run is not finished" in page and page.count("<details") == (1 if critic else 2)
    assert (tmp_path / "parts" / "curves.png").is_file()
    codes = [tune(name, **keys).exit_code for name in ("parts", "whole")]
    alarm = "rl_tune.rewards" in keys
    assert codes == [7 if alarm else 0] * 2
    one, two = (state_of(tmp_path / name) for name in ("parts", "whole"))
    assert one.counters == two.counters
    assert set(one.tensors) == set(two.tensors) > {"weights", "optimizer", "best", "rewards"}
    assert all(_same(dict(one.tensors[n]), dict(two.tensors[n])) for n in one.tensors)
    rows = [rows_of(tmp_path / name) for name in ("parts", "whole")]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 1 + (2 if alarm else 3 + ("critic" in one.tensors))
    models = [_weights(tmp_path / name / "model") for name in ("parts", "whole")]
    assert _same(*models)
    page = (tmp_path / "parts" / "page.html").read_text(encoding="utf-8")
    assert "not finished" not in page and "<details open>" in page
    assert page.count("<details") == (1 if alarm else 3)
    again = tune("parts", **keys)
    assert again.status == "no-op"


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"rl_tune.kl_max": 1e-12}, "nats a step from its start, over rl_tune.kl_max"),
        ({"rl_tune.lr": 1e30, "rl_tune.weight_decay": 0.0}, "went nan nats"),
    ],
    ids=["too-far", "not-a-number"],
)
def test_a_safety_stop_keeps_the_best_weights(
    tune: Tune, tmp_path: Path, place: Place, keys: dict[str, Any], said: str
) -> None:
    """Catches the last weights saved where the best were promised, and an end without a reason."""
    summary = tune(**{"rl_tune.learn": "full", "rl_tune.evaluate_every": 9, **keys})
    assert (summary.status, summary.exit_code) == ("gate-missed", 7)
    stopped = [note for note in summary.notes if note.startswith("stopped early: ")]
    assert len(stopped) == 1 and said in stopped[0]
    assert _same(_weights(tmp_path / "out" / "model"), _weights(place.model))


def test_after_a_collapse_it_goes_on_from_the_best_at_half_the_rate(
    tune: Tune, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a second try from the weights that collapsed, or with the moments that led there."""
    alarms = iter([Alarm("collapse", "the model collapses", stop=False), None])
    monkeypatch.setattr(Watch, "after", lambda self, facts: next(alarms))
    once = {
        "rl_tune.learn": "full", "rl_tune.lr": 3e-5, "rl_tune.updates": 1,
        "rl_tune.optimizer": "adamw",
        "rl_tune.evaluate_every": 9,
    }  # fmt: skip
    assert tune(**once).exit_code == 0
    state = state_of(tmp_path / "out")
    assert state.counters["progress"]["rate"] == 0.5
    start = _weights(place.model)
    learned = {k.removeprefix("unet."): v for k, v in state.tensors["weights"].items()}
    # Adam's first step is the rate in every weight with a gradient: the second epoch made one
    steps = {float(v) for k, v in state.tensors["optimizer"].items() if k.endswith(":step")}
    largest = max(float((learned[name] - start[name]).abs().max()) for name in start)
    assert steps == {1.0}
    assert largest == pytest.approx(0.5 * 3e-5, rel=0.02)


def test_judge_b_measures_once_and_may_miss_the_gate(tune: Tune, tmp_path: Path) -> None:
    """Catches a result that is called better by the judge that it was chosen by, or by nobody."""
    judges = save_judges(tmp_path / "judges")
    keys = {"rl_tune.epochs": 1}
    summary = tune("gated", judge=judges, **keys)
    assert summary.exit_code == 7
    text = " ".join(summary.notes)
    assert "by judge A" in text and "judge B, once: AP50" in text and "keep the checkpoint" in text
    free = tune("free", judge=judges, **{**keys, "rl_tune.gate": "none"})
    assert free.exit_code == 0
    assert "no independent judge measured the result (rl_tune.gate is none)" in free.notes


def test_what_a_run_leaves(tune: Tune, tmp_path: Path, place: Place) -> None:
    """Catches a page without its pictures, metrics that are no JSON, and a card that forgets."""
    summary = tune(real=place.layouts, **{"rl_tune.epochs": 1, "rl_tune.grid": 2})
    out = tmp_path / "out"
    assert summary.exit_code == 0
    assert "no independent judge measured the result (no --judge was given)" in summary.notes
    for name in ("page", "curves", "metrics", "validation", "model", "adapter"):
        assert Path(summary.artifacts[name]).exists(), name
    page = (out / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 and "http" not in page
    assert rows_of(out)[-1]["paired loss"] > 0
    card = json.loads((out / "model" / "rsgen.json").read_text(encoding="utf-8"))
    assert card["training"]["tuned"] == "rl-tune ddpo"
    assert {k: card["training"][f"tuned {k}"] for k in ("steps", "window", "size", "rule")} == {
        "steps": 6, "window": [0.0, 0.5], "size": SIZE, "rule": "ddim",
    }  # fmt: skip
    assert {p.name for p in out.iterdir()} >= {"manifest.json", "run.json", "events.jsonl"}


def test_generate_takes_the_merged_model_and_the_adapter(tmp_path: Path, place: Place) -> None:
    """Catches layers that are lost in merging, scaled twice, or added to another model."""
    model = load_model(place.model)
    assert isinstance(model, StableDiffusion) and model.card is not None
    learner = Learner(model, "lora+controlnet", 4, 0)
    with torch.no_grad():
        for k, parameter in enumerate(learner.parameters().values()):
            generator = torch.Generator().manual_seed(k)
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    names = learner.save_adapter(adapter, model_hash(place.model))
    assert set(names) == {"unet", "controlnet"}
    model.card.write(adapter)
    whole = load_model(place.model)
    assert isinstance(whole, StableDiffusion)
    add_adapter(whole.networks(), adapter, names)
    whole.save(merged, model.card)

    def paint(name: str, checkpoint: Path, base: Path | None = None) -> Any:
        keys: dict[str, Any] = {"generate.steps": 2, "generate.count": 1}
        if base is not None:
            keys["generate.base"] = str(base)
        inputs = {"checkpoint": [checkpoint], "layouts": [place.layouts]}
        summary = run_stage(Job("generate", config(**keys), tmp_path / name, inputs))
        return read_image(next((Path(summary.out) / "images").rglob("*.png"))).astype(int)

    adapted = paint("adapted", adapter, place.model)
    assert np.array_equal(adapted, paint("from-merged", merged))
    assert np.abs(adapted - paint("start", place.model)).max() > 3
    with pytest.raises(UsageError, match="an adapter of the model"):
        paint("wrong", adapter, save_model(tmp_path / "other", seed=5).path)
    with pytest.raises(UsageError, match="needs the model that it was tuned from"):
        paint("alone", adapter)


# ---------------------------------------------------------------- refusals, and what it costs


def test_a_dry_run_counts_and_writes_nothing(tune: Tune, tmp_path: Path) -> None:
    """Catches a plan that leaves a folder, or that forgets guidance and the start's calls."""
    summary = tune(dry_run=True)
    assert summary.status == "dry-run" and not (tmp_path / "out").exists()
    counts = summary.counts
    # 8 images, two calls a step: 6 to paint, 3 with gradients and 3 of the start
    assert (counts["images an epoch"], counts["network calls an epoch"]) == (8, 8 * 2 * (6 + 3 + 3))
    numbers = 4 * (SIZE // 4) ** 2
    assert counts["buffer bytes"] == 8 * (numbers * 4 * (4 + 3) + 3 * 4)
    lag = tune(dry_run=True, **{"rl_tune.lag": 1}).counts["buffer bytes"]
    assert lag == 2 * counts["buffer bytes"]  # those of the epoch before are kept


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"rl_tune.rewards": [{"reward": "detector"}]}, "--judge"),
        ({"rl_tune.rewards": [{"reward": "distribution"}]}, "--real"),
        ({"rl_tune.rewards": [{"reward": "novel"}]}, "unknown reward 'novel'"),
        ({"rl_tune.window": (0.5, 0.5)}, "nothing to learn from"),
        ({"rl_tune.samples": 1}, "compares images of one layout"),
        ({"rl_tune.credit": "objects", "rl_tune.algorithm": "ppo"}, "ppo's critic"),
        ({"execution.batch_size": 3}, "--batch-size"),
    ],
    ids=["no-judge", "no-real", "no-such-reward", "no-window", "no-group", "credit", "batch"],
)
def test_what_cannot_work_is_refused_first(
    tune: Tune, tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    """Catches a run that begins and fails where it needs what was not given."""
    with pytest.raises(UsageError) as caught:
        tune(**keys)
    assert said in str(caught.value)
    assert not (tmp_path / "out" / "state").exists()


# ---------------------------------------------------------------- several ranks


@ranks
@pytest.mark.loopback
def test_two_ranks_learn_what_one_does(tmp_path: Path, place: Place, cli_here: Any) -> None:
    """Catches advantages of a rank's own images, another order of them, and gradients that are
    not shared. Dossier test 17."""
    job = tune_job(tmp_path / "none", place.model, place.layouts)
    given = {k: v for k, v in job.config.rl_tune.model_dump(mode="json").items() if v is not None}
    keys = {**given, "algorithm": "ppo", "lag": 1, "epochs": 1, "learn": "full", "lr": 1e-3}
    words = ["rl-tune", place.model, "--layouts", place.layouts, "--batch-size", 4, "--json"]
    words += [w for k, v in keys.items() for w in ("-s", f"rl_tune.{k}={json.dumps(v)}")]
    words += ["-s", "execution.threads=1"]
    done = torchrun("-m", "rsgen_cli", *words, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["counts"]["epochs"] == 2
    one = cli_here(*words, "--out", tmp_path / "one")
    assert one.code == 0, one
    for ours, theirs in zip(*(rows_of(tmp_path / n) for n in ("two", "one")), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    states = [state_of(tmp_path / name).tensors for name in ("two", "one")]
    for part in ("critic", "pool"):
        for name, tensor in states[1][part].items():
            torch.testing.assert_close(states[0][part][name], tensor, rtol=1e-4, atol=1e-4)
    # Adam steps by the rate whatever the gradient is: told by what was learned, and by moments
    weights = [s["weights"] for s in states]
    assert _apart(*weights) < 5e-3 * _apart(weights[1], _starts(place.model))
    moments = [{k: v for k, v in s["optimizer"].items() if k.endswith("exp_avg")} for s in states]
    none = {name: torch.zeros_like(tensor) for name, tensor in moments[1].items()}
    assert moments[1] and _apart(*moments) < 1e-3 * _apart(moments[1], none)


def _apart(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """Distance of two sets of tensors."""
    return math.sqrt(sum(float((one[n] - two[n]).double().square().sum()) for n in two))
