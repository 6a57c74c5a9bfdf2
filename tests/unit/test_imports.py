"""Imports point one way, heavy libraries come late, and help is quick."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import rsgen_cli

import rsgen

PACKAGE = Path(rsgen.__file__).parent
CLI = Path(rsgen_cli.__file__).parent

# Lowest first; modules of one row do not import each other.
LAYERS: list[tuple[str, ...]] = [
    ("errors", "reporting", "hints"),
    ("geometry",),
    ("mask",),
    ("records",),
    ("tables",),
    ("georaster",),
    ("images", "legend", "listing"),
    ("devices", "pictures", "registry", "sensor", "settings", "workers"),
    ("config",),
    ("request", "classes", "shipped"),
    ("inputs",),
    ("store",),
    ("ending", "raw_inputs"),
    ("job",),
    ("locks",),
    ("runs", "splits"),
    ("stages", "series"),
    ("drivers",),
    ("execution",),
    ("raster", "detections"),
    ("matching",),
    ("formats", "condition", "prompts", "composition"),
    ("pool",),
    ("layout",),
    ("scenes",),
    ("models",),
    ("judge",),
    ("extraction", "augment", "losses"),
    ("shape_augment",),
    ("data",),
    ("scorers",),
    ("training", "generation", "screening"),
    ("evaluation",),
    ("rewards",),
    ("rl",),
    ("train", "train_judge", "rl_tune", "generate", "filter", "export", "evaluate"),
    ("pipeline_file",),
    ("pipeline_folders",),
    ("pipeline", "doctor", "status", "first_look", "why"),
    ("cli",),
]
LEVEL = {name: k for k, names in enumerate(LAYERS) for name in names}

# Modules that every command loads: they may not pull in what takes seconds.
LIGHT = (
    "errors",
    "reporting",
    "settings",
    "config",
    "registry",
    "records",
    "tables",
    "request",
    "inputs",
    "store",
)
HEAVY = ("torch", "diffusers", "transformers", "albumentations", "matplotlib", "peft", "accelerate")


def modules() -> dict[str, Path]:
    """Dotted name below rsgen -> file, for rsgen and the command line."""
    found = {}
    for root, prefix in ((PACKAGE, ""), (CLI, "cli.")):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = prefix + ".".join(parts).removesuffix("__init__").rstrip(".")
            found[name.rstrip(".")] = path
    found.pop("")  # rsgen/__init__.py holds the version alone
    return found


MODULES = modules()


@cache
def imports(name: str, path: Path, *, top_only: bool = False) -> frozenset[str]:
    """Dotted names that a module imports; with `top_only` only at import time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= _from(name, path, node)
        stack.extend(ast.iter_child_nodes(node))
    return frozenset(found)


def _from(name: str, path: Path, node: ast.ImportFrom) -> set[str]:
    base = node.module or ""
    if node.level:
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        package = package[: len(package) - node.level + 1]
        base = ".".join(["rsgen_cli" if p == "cli" else p for p in package] + [base]).strip(".")
    return {f"{base}.{alias.name}" for alias in node.names} | {base}


def ours(imported: frozenset[str]) -> set[str]:
    """Imported modules of this product, as keys of MODULES."""
    found = set()
    for full in imported:
        dotted = full.removeprefix("rsgen.") if full.startswith("rsgen.") else ""
        if full.startswith("rsgen_cli"):
            dotted = "cli" + full.removeprefix("rsgen_cli")
        while dotted and dotted not in MODULES:
            dotted = dotted.rpartition(".")[0]
        if dotted:
            found.add(dotted)
    return found


def top(name: str) -> str:
    return name.split(".")[0]


GRAPH = {name: ours(imports(name, path)) - {name} for name, path in MODULES.items()}


def test_every_module_has_a_layer() -> None:
    """Catches a new top-level module that nobody placed."""
    assert {top(name) for name in MODULES} == set(LEVEL)


def test_no_import_points_upwards() -> None:
    upward = [
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        for other in others
        if top(other) != top(name) and LEVEL[top(other)] >= LEVEL[top(name)]
    ]
    assert not upward, "\n".join(upward)


def test_no_circles() -> None:
    """Catches circles inside a package too, also those hidden in functions."""
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> None:
        if state.get(name) == 2:
            return
        assert state.get(name) != 1, " -> ".join([*trail, name])
        state[name] = 1
        for other in sorted(GRAPH[name]):
            # `from package import x` loads the package file that is loading this module.
            if not name.startswith(other + "."):
                visit(other, [*trail, name])
        state[name] = 2

    for name in GRAPH:
        visit(name, [])


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy(name: str) -> None:
    """Follows every import that runs when the module is loaded."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        loaded = imports(module, MODULES[module], top_only=True)
        heavy = {other.split(".")[0] for other in loaded} & set(HEAVY)
        assert not heavy, f"{name} loads {heavy} through {module}"
        todo += ours(loaded)


def test_torch_and_torchvision_are_where_tensors_are() -> None:
    users = {n for n, p in MODULES.items() if any(top(i) == "torch" for i in imports(n, p))}
    assert {top(n) for n in users} <= {
        "models",
        "condition",
        "data",
        "extraction",
        "judge",
        "train_judge",
        "evaluation",
        "evaluate",
        "rl",
        "rl_tune",
        "devices",
        "losses",
        "training",
        "train",
        "generate",
        "generation",
        "scorers",
        "filter",
        "execution",
        "stages",
        "doctor",
    }
    vision = {n for n, p in MODULES.items() if any(top(i) == "torchvision" for i in imports(n, p))}
    assert not vision


CODE = """
import sys
sys.argv = ["rsgen", *{arguments!r}]
from rsgen_cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(" ".join(sorted({{name.split(".")[0] for name in sys.modules}})), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> tuple[set[str], float]:
    """Top-level modules that a command line loads, and the CPU seconds it takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(arguments=arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return set(done.stderr.split()), spent


def test_help_is_quick_and_loads_no_library() -> None:
    """Catches an import at the top of the command line; CPU time, so a busy machine is fine."""
    loaded, first = loaded_by("--help")
    assert not loaded & {*HEAVY, "scipy", "pyarrow", "cv2", "rasterio", "shapely"}
    spent = min(first, *(loaded_by("--help")[1] for _ in range(2)))
    assert spent < 0.5, f"rsgen --help took {spent:.2f} s of CPU"


def test_print_config_loads_nothing_heavy() -> None:
    loaded, _ = loaded_by("generate", "x", "--print-config")
    assert not loaded & set(HEAVY)
