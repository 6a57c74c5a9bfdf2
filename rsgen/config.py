"""Loading configuration: template < file < RSGEN_* environment < option or `-s`.

Every problem is reported in one go. YAML is loaded safely; there are no code paths in it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rsgen.errors import UsageError
from rsgen.settings import Config

__all__ = [
    "Config",
    "dump_yaml",
    "load_config",
    "parse_pairs",
    "read_yaml",
    "section_name",
    "template_path",
]

ENVIRONMENT_PREFIX = "RSGEN_"


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
        raise UsageError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
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
        if not name.startswith(ENVIRONMENT_PREFIX) or name == "RSGEN_DEBUG":
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
) -> Config:
    """Merge the layers, lowest first, and check everything at once.

    Args:
        files: template, then file contents, lowest priority first.
        options: (dotted key, value) of named command-line options.
        settings: (dotted key, value) of `-s`.

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
        lines = [_problem(dict(item)) for item in error.errors()]
        raise UsageError("configuration:\n  " + "\n  ".join(lines)) from error


def _problem(item: dict[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    dotted = ".".join(path)
    if item["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        where = ".".join(path[:-1]) or "the top level"
        guess = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
        return f"{dotted}: unknown key in {where}{guess}"
    return f"{dotted}: {item['msg']} (got {item['input']!r})"


def _known_keys(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)


def dump_yaml(config: Config, sections: Sequence[str] | None = None) -> str:
    """The resolved configuration as YAML: all of it, or seed, classes, execution and sections."""
    data = config.model_dump(mode="json")
    if sections is not None:
        wanted = {"seed", "classes", "execution", *sections}
        data = {key: value for key, value in data.items() if key in wanted}
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
