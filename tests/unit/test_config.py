"""Configuration: layers in order, every problem at once, the nearest key named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from rsgen.config import (
    Config,
    dump_yaml,
    load_config,
    parse_pairs,
    read_yaml,
    section_name,
    template_path,
    templates_root,
)
from rsgen.errors import UsageError


def load(*files: dict[str, Any], env: dict[str, str] | None = None, **keys: Any) -> Config:
    return load_config(files, settings=list(keys.items()), environ=env or {})


def test_layers_template_file_environment_option() -> None:
    """Catches a lower layer that wins."""
    template = {"scenes": {"count": 1, "size": 64}, "seed": 1, "train": {"lr": 0.1}}
    file = {"scenes": {"count": 2}, "seed": 2}
    env = {"RSGEN_SEED": "3", "RSGEN_TRAIN__WARMUP_STEPS": "7", "PATH": "/bin"}
    got = load_config([template, file], options=[("seed", 4)], environ=env)
    assert (got.seed, got.scenes.count, got.scenes.size) == (4, 2, 64)
    assert (got.train.lr, got.train.warmup_steps) == (0.1, 7)
    assert load_config([template, file], environ=env).seed == 3


@pytest.mark.parametrize(
    ("env", "key", "value"),
    [
        ({"RSGEN_TRAIN__LR": "1e-4"}, ("train", "lr"), 1e-4),
        ({"RSGEN_EXECUTION__DEVICE": "cpu"}, ("execution", "device"), "cpu"),
        ({"RSGEN_EXTRACT_MASKS__TILE": "none"}, ("extract_masks", "tile"), "none"),
        ({"RSGEN_SCENES__TYPES": "[harbour]"}, ("scenes", "types"), ("harbour",)),
    ],
    ids=["number", "word", "underscored section", "list"],
)
def test_environment_values_are_yaml(
    env: dict[str, str], key: tuple[str, str], value: object
) -> None:
    """Catches numbers left as text: YAML reads 1e-4 without a dot as a string."""
    assert getattr(getattr(load(env=env), key[0]), key[1]) == value


def test_every_problem_is_reported_in_one_go() -> None:
    with pytest.raises(UsageError) as caught:
        load({"scenes": {"cuont": 3, "size": "big"}, "trian": {}, "seed": -1})
    text = str(caught.value)
    assert "scenes.cuont: unknown key in scenes; did you mean 'count'?" in text
    assert "trian: unknown key in the top level; did you mean 'train'?" in text
    assert "scenes.size" in text and "'big'" in text
    assert "seed" in text and "-1" in text


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"train": {"max_steps": "twenty"}},
         "train.max_steps: expected a whole number or auto, got 'twenty'"),
        ({"train": {"unet": "ful"}},
         "train.unet: expected auto, frozen, lora, decoder or full, got 'ful'; "
         "did you mean 'full'?"),
        ({"execution": {"device": "tpu"}},
         "execution.device: expected auto, cpu or cuda, got 'tpu'"),
        ({"train": {"lr": -1}}, "train.lr: must be above 0, got -1"),
        ({"filter": {"rules": [{"scorerr": "x"}]}},
         "filter.rules.0.scorer: is missing, give text"),
        ({"filter": {"rules": [{"scorer": "x", "min": "low"}]}},
         "filter.rules.0.min: expected a number, got 'low'"),
        ({"generate": {"per_class": {"ship": "many"}}},
         "generate.per_class.ship: expected a whole number, got 'many'"),
        ({"train": {"scale_range": [1, "a"]}},
         "train.scale_range.1: expected a number, got 'a'"),
        ({"train": 3}, "train: expected a mapping, got 3"),
        ({"train": {"augment": "perhaps"}},
         "train.augment: expected true or false, got 'perhaps'"),
    ],
    ids=lambda v: v.split(":")[0] if isinstance(v, str) else "",
)  # fmt: skip
def test_a_wrong_value_is_one_line_in_plain_words(tree: dict[str, Any], line: str) -> None:
    """Catches pydantic's own text: two errors for a union, `[type=int_parsing]`, `Input`."""
    with pytest.raises(UsageError) as caught:
        load(tree)
    lines = caught.value.message.splitlines()
    assert f"  {line}" in lines
    assert len(lines) <= 3 and "nput should" not in str(caught.value)


def test_an_option_is_named_where_it_gave_the_value() -> None:
    flags = {"train.max_steps": "--steps", "train.lr": "--lr"}
    with pytest.raises(UsageError) as caught:
        load_config(
            options=[("train.max_steps", "x")],
            settings=[("train.lr", "y")],
            environ={},
            flags=flags,
        )
    assert "--steps (train.max_steps): expected" in str(caught.value)
    assert "  train.lr: expected" in str(caught.value)


def test_an_unknown_key_near_nothing_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"known: .*count.*size"):
        load({"scenes": {"zzz": 1}})


@pytest.mark.parametrize(
    ("options", "settings", "key"),
    [
        ([("seed", 1)], [("seed", 1)], "seed"),
        ([], [("scenes.count", 1), ("scenes.count", 2)], "scenes.count"),
        ([("scenes.count", 1)], [("scenes.count", 2)], "scenes.count"),
    ],
    ids=["option and -s, same value", "-s twice", "option and -s"],
)
def test_a_key_given_twice_is_refused(
    options: list[tuple[str, Any]], settings: list[tuple[str, Any]], key: str
) -> None:
    with pytest.raises(UsageError, match=f"{key} is given twice"):
        load_config(options=options, settings=settings, environ={})


@pytest.mark.parametrize(
    "tree",
    [{"scenes": None}, {"scenes": None, "seed": 3}, {}],
    ids=["alone", "with others", "empty file"],
)
def test_a_section_with_everything_commented_out_is_the_default(tree: dict[str, Any]) -> None:
    """Catches `train:` followed by comments only, which YAML reads as null."""
    assert load(tree).scenes == Config().scenes


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RSGEN_CLASSES": "[a"}, "RSGEN_CLASSES"),
        ({"RSGEN_SCENES__COUNT": "many"}, "scenes.count"),
        ({"RSGEN_HOME": "/x"}, "RSGEN_HOME"),
        ({"RSGEN_SCENES": "3", "RSGEN_SCENES__COUNT": "4"}, "RSGEN_SCENES"),
    ],
    ids=["not yaml", "not a number", "unknown name", "a section and a key of it"],
)
def test_bad_environment_is_a_usage_error_that_names_it(env: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(env=env)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["seed=7"], [("seed", 7)]),
        (["train.lr=1e-4", "a=b=c"], [("train.lr", "1e-4"), ("a", "b=c")]),
        (["x="], [("x", None)]),
        (["x=[1, 2]"], [("x", [1, 2])]),
    ],
)
def test_pairs(pairs: list[str], expected: list[tuple[str, Any]]) -> None:
    assert parse_pairs(pairs) == expected


@pytest.mark.parametrize("pair", ["seed", "=3", "x=[1", "x={a"], ids=str)
def test_bad_pairs(pair: str) -> None:
    with pytest.raises(UsageError, match="-s"):
        parse_pairs([pair])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "'seed' is given twice"),
        ("scenes:\n  count: 1\n  count: 2\n", "line 3"),
        ("- a\n- b\n", "expected a mapping"),
        ("a: [1\n", "not valid YAML"),
        ("x: !!python/object/apply:os.system [echo]\n", "not valid YAML"),
        ("? [1, 2]\n: 3\n", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
    ids=["twice", "twice inside", "a list", "broken", "code", "list as a key", "control byte"],
)
def test_bad_yaml_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


def test_unreadable_yaml_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: M\xfcnchen\n")
    for name in ("latin.yaml", "nowhere.yaml", "."):
        with pytest.raises(UsageError):
            read_yaml(tmp_path / name)
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_yaml_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    """Catches a duplicate-key check that breaks `<<:`; an own key beats a merged one."""
    path = tmp_path / "c.yaml"
    path.write_text("base: &b {count: 1, size: 64}\nscenes:\n  <<: *b\n  count: 5\n")
    assert read_yaml(path)["scenes"] == {"count": 5, "size": 64}


def test_dumped_config_loads_to_the_same(tmp_path: Path) -> None:
    config = load(
        {"classes": [{"name": "ship", "aliases": ["boat"]}, {"name": "water", "kind": "stuff"}]},
        **{"extract_masks.class_map": {"a": "b"}, "train.max_steps": 12, "scenes.gsd_m": 0.5},
    )
    assert load(yaml.safe_load(dump_yaml(config))) == config
    some = yaml.safe_load(dump_yaml(config, ["scenes"]))
    assert set(some) == {"seed", "classes", "on_finish", "execution", "scenes"}


def sections(model: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += sections(kind, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", field))
    return rows


@pytest.mark.parametrize(
    ("key", "field"), [r for r in sections(Config) if r[0] != "classes"], ids=lambda v: str(v)[:40]
)
def test_every_key_is_described_and_its_default_is_valid(key: str, field: Any) -> None:
    """Catches a key without help text, and a default that its own bounds refuse."""
    assert field.description, f"{key} needs Field(description=...)"
    value: Any = Config().model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    if value is not None:
        load(**{key: value})


def test_config_never_changes_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().scenes.count = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", sorted(templates_root().glob("classes/*.yaml")), ids=lambda p: p.stem
)
def test_class_templates_are_mappings(path: Path) -> None:
    assert read_yaml(path)


def test_names_and_templates() -> None:
    assert section_name("extract-masks") == "extract_masks"
    assert template_path("quickstart", "pipelines") is not None
    assert template_path("nothing-such", "pipelines") is None
