"""Loading configuration: template < file < RSGEN_* environment < option or `-s`.

Every problem is reported in one go. YAML is loaded safely; there are no code paths in it.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from rsgen.errors import UsageError
from rsgen.hints import check_path, near_name
from rsgen.settings import Config

__all__ = [
    "Config",
    "choices",
    "config_data",
    "dump_json",
    "dump_yaml",
    "expected",
    "is_closed",
    "load_config",
    "parse_pairs",
    "problem_lines",
    "read_yaml",
    "section_name",
    "template_path",
]

ENVIRONMENT_PREFIX = "RSGEN_"
# Not configuration: a switch for developers, and what on_finish is told.
OTHER_VARIABLES = frozenset({"RSGEN_DEBUG", "RSGEN_SUMMARY"})


def section_name(command: str) -> str:
    """`extract-masks` -> `extract_masks`."""
    return command.replace("-", "_")


def templates_root() -> Path:
    """The folder of the installed templates package."""
    import rsgen_templates

    return Path(str(rsgen_templates.__file__)).parent


def template_path(name: str, kind: str) -> Path | None:
    """The template file of a kind (pipelines, train, layouts, classes), or None."""
    path = templates_root() / kind / f"{name}.yaml"
    return path if path.is_file() else None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        UsageError: missing, not YAML, or not a mapping; duplicate keys are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file", hint=check_path(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a mapping of sections, got {type(data).__name__}")
    return data


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe loading that refuses a key given twice."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[tuple[str, str]] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            continue
        key = (key_node.tag, key_node.value)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    # Merges `<<:` and refuses keys that are lists; own keys beat merged ones.
    return dict(loader.construct_mapping(node, deep=True))


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def parse_pairs(pairs: Iterable[str], flag: str = "-s") -> list[tuple[str, Any]]:
    """`key=value` texts with YAML values, in order."""
    found = []
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UsageError(f"{flag} {pair!r}: expected key=value, for example {flag} seed=7")
        try:
            found.append((key.strip(), yaml.safe_load(value)))
        except yaml.YAMLError as error:
            raise UsageError(f"{flag} {pair!r}: the value is not valid YAML") from error
    return found


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = tree
    for part in parents:
        child = node.get(part)
        if not isinstance(child, dict):
            child = node[part] = {}
        node = child
    node[last] = value


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both and isinstance(old, dict) else value
    return merged


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """RSGEN_SEED=7, RSGEN_TRAIN__LR=1e-4 -> {seed: 7, train: {lr: 1e-4}}."""
    tree: dict[str, Any] = {}
    problems = []
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in OTHER_VARIABLES:
            continue
        section, _, key = name[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if section not in Config.model_fields:
            problems.append(f"{name}: no such key; first parts: {', '.join(Config.model_fields)}")
        elif not key and _known_keys([section]):
            problems.append(f"{name}: a whole section; set one key of it, as {name}__KEY")
        else:
            try:
                value = yaml.safe_load(environ[name])
            except yaml.YAMLError:
                problems.append(f"{name}: {environ[name]!r} is not valid YAML")
                continue
            _set(tree, f"{section}.{key.replace('__', '.')}" if key else section, value)
    if problems:
        raise UsageError("environment:\n  " + "\n  ".join(problems))
    return tree


def load_config(
    files: Sequence[Mapping[str, Any]] = (),
    *,
    options: Sequence[tuple[str, Any]] = (),
    settings: Sequence[tuple[str, Any]] = (),
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Config:
    """Merge the layers, lowest first, and check everything at once.

    Args:
        files: template, then file contents, lowest priority first.
        options: (dotted key, value) of named command-line options.
        settings: (dotted key, value) of `-s`.
        flags: dotted key -> option, for messages.

    Raises:
        UsageError: with one line a problem, and the nearest known key for unknown ones.
    """
    tree: dict[str, Any] = {}
    for layer in files:
        # A section with everything commented out reads as null: nothing was given.
        tree = _merge(tree, {key: value for key, value in layer.items() if value is not None})
    tree = _merge(tree, _environment(os.environ if environ is None else environ))
    given: dict[str, Any] = {}
    for key, value in [*options, *settings]:
        if key in given:
            raise UsageError(f"{key} is given twice: {given[key]!r} and {value!r}")
        given[key] = value
        _set(tree, key, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        shown = {key: flag for key, flag in (flags or {}).items() if key in dict(options)}
        lines = problem_lines(error, Config, tree, shown)
        raise UsageError("configuration:\n  " + "\n  ".join(lines)) from error


def problem_lines(
    error: ValidationError,
    model: type[BaseModel],
    tree: Any,
    flags: Mapping[str, str] | None = None,
    prefix: str = "",
) -> list[str]:
    """One line a wrong value: its key, what is expected, what was given, and a near name.

    `tree` is what was validated, at the key `prefix`; `flags` names the options of some keys.
    """
    lines: dict[str, str] = {}
    for item in error.errors():
        path = _path_in(tree, item["loc"])
        if item["type"] in {"missing", "extra_forbidden"}:
            path = item["loc"]
        dotted = ".".join([*filter(None, [prefix]), *map(str, path)])
        flag = (flags or {}).get(dotted)
        where = f"{flag} ({dotted})" if flag else dotted
        text = _problem(model, path, dict(item))
        lines.setdefault(dotted, f"{where}: {text}" if where else text)
    return list(lines.values())


def _path_in(tree: Any, loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """The part of pydantic's place that is in the file; the rest names its own types."""
    for depth, part in enumerate(loc):
        sequence = isinstance(tree, (list, tuple)) and isinstance(part, int) and part < len(tree)
        if not sequence and not (isinstance(tree, Mapping) and part in tree):
            return tuple(loc[:depth])
        tree = tree[part]
    return tuple(loc)


BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _problem(model: type[BaseModel], path: Sequence[int | str], item: dict[str, Any]) -> str:
    given = item["input"]
    if item["type"] == "extra_forbidden":
        known = _known_keys(path[:-1], model)
        near = near_name(str(path[-1]), known)
        inside = ".".join(map(str, path[:-1])) or ("the top level" if model is Config else "it")
        guess = f"; did you mean {near!r}?" if near else f"; known: {', '.join(known)}"
        return f"unknown key in {inside}{guess}"
    if item["type"] in BOUNDS:
        words, key = BOUNDS[item["type"]]
        return f"must be {words} {item['ctx'][key]:g}, got {given!r}"
    wanted = _annotation(model, path)
    if item["type"] == "missing":
        return f"is missing, give {expected(wanted)}"
    near = near_name(given, choices(wanted), 0.7) if isinstance(given, str) else None
    guess = f"; did you mean {near!r}?" if near else ""
    return f"expected {expected(wanted)}, got {given!r}{guess}"


def _annotation(model: type[BaseModel], path: Sequence[int | str]) -> Any:
    """The type of a key, through sections, lists and mappings."""
    kind: Any = model
    for part in path:
        models = [k for k in _members(kind) if isinstance(k, type) and issubclass(k, BaseModel)]
        inner = [k for k in _members(kind) if get_origin(k) in {tuple, list, dict}]
        if models and str(part) in models[0].model_fields:
            kind = models[0].model_fields[str(part)].annotation
        elif inner and get_origin(inner[0]) is dict:
            kind = get_args(inner[0])[1]
        elif inner:
            kinds = get_args(inner[0])
            kind = kinds[part] if isinstance(part, int) and Ellipsis not in kinds else kinds[0]
        else:
            return None
    return kind


def _members(kind: Any) -> list[Any]:
    """The types that a union allows, `Annotated` taken off; None left out."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return [m for k in get_args(kind) for m in _members(k)]
    return [] if kind is type(None) else [kind]


def choices(kind: Any) -> tuple[str, ...]:
    """The fixed values that a type allows, besides what else it may be."""
    found = [v for m in _members(kind) if get_origin(m) is Literal for v in get_args(m)]
    return tuple(map(str, found))


def is_closed(kind: Any) -> bool:
    """Whether a type allows its fixed values alone."""
    return all(get_origin(member) is Literal for member in _members(kind))


def expected(kind: Any) -> str:
    """What a type allows, in words: `a whole number or auto`."""
    words = [_in_words(m) for m in _members(kind) if get_origin(m) is not Literal]
    words += choices(kind)
    if len(words) < 2:
        return words[0] if words else "another value"
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _in_words(kind: Any) -> str:
    if kind in KINDS:
        return KINDS[kind]
    return "a list" if get_origin(kind) in {tuple, list} else "a mapping"


def _known_keys(path: Sequence[int | str], model: type[BaseModel] = Config) -> list[str]:
    """The keys of a section; none where the path leads to no section."""
    for kind in _members(_annotation(model, path)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return sorted(kind.model_fields)
    return []


def dump_yaml(config: Config, sections: Sequence[str] | None = None) -> str:
    """The resolved configuration as YAML: all of it, or seed, classes, execution and sections."""
    data = config_data(config, sections)
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def dump_json(config: Config, sections: Sequence[str] | None = None) -> str:
    """What `dump_yaml` shows, as one line of JSON."""
    return json.dumps(config_data(config, sections)) + "\n"


def config_data(config: Config, sections: Sequence[str] | None = None) -> dict[str, Any]:
    """The resolved configuration as plain values, of some sections or of all."""
    data = config.model_dump(mode="json")
    if sections is None:
        return data
    wanted = {"seed", "classes", "execution", "on_finish", *sections}
    return {key: value for key, value in data.items() if key in wanted}
