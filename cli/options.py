"""Options as names for config keys: `--steps` is `train.max_steps`, and help says so."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rsgen.config import choices, expected, is_closed
from rsgen.errors import UsageError
from rsgen.registry import names
from rsgen.settings import Config

__all__ = ["COMMON", "Common", "ConfigOption", "command_signature", "config_values"]


@dataclass(frozen=True)
class ConfigOption:
    """One named option and the config key that it sets."""

    flag: str
    key: str
    kind: Any = str
    # a,b,c -> list; a=1 (repeated) -> mapping; a:0.5 (repeated) -> rewards with their weights
    shape: Literal["one", "list", "pairs", "weights"] = "one"
    group: str | None = None  # registry group whose names are values; help lists them
    use: Literal["read", "written"] | None = None  # of formats: which of them

    @property
    def name(self) -> str:
        return self.flag.lstrip("-").replace("-", "_")

    def parameter(self) -> inspect.Parameter:
        """The Typer parameter; None means "not given", so defaults stay in rsgen/settings."""
        section, _, leaf = self.key.rpartition(".")
        model = type(getattr(Config(), section)) if section else Config
        field = model.model_fields[leaf]
        default = field.default
        hidden = default is None or default == () or field.default_factory is not None
        shown = "" if hidden else f" [default: {_show(default)}]"
        known = f"; known: {', '.join(names(self.group, self.use))}" if self.group else ""
        text = f"{field.description or ''}{known}{shown} ({self.key})"
        kind: Any = list[str] if self.shape in {"pairs", "weights"} else self.kind
        annotation: Any = Annotated[
            kind | None, typer.Option(self.flag, help=text, metavar=self._meta(field.annotation))
        ]
        return _parameter(self.name, annotation, None)

    def _meta(self, allowed: Any) -> str:
        """What stands for the value in help: the fixed values, where the key has them."""
        if self.shape == "pairs":
            return "NAME=N" if allowed == dict[str, int] else "NAME=NAME"
        if self.shape == "weights":
            return "NAME[:WEIGHT]"
        if self.shape == "list":
            return "A,B"
        fixed = choices(allowed)
        if fixed and is_closed(allowed):
            return f"[{'|'.join(fixed)}]"
        number = "X" if expected(allowed).startswith("a number") else "N"
        open_kind = {int: "N", float: "X", bool: ""}.get(self.kind, number if fixed else "TEXT")
        return "|".join([open_kind, *fixed])

    def value(self, given: Any) -> Any:
        if self.shape == "list":
            return [part.strip() for part in str(given).split(",") if part.strip()]
        if self.shape == "pairs":
            pairs = [item.partition("=") for text in given for item in text.split(",")]
            if any(not sign for _, sign, _ in pairs):
                raise UsageError(f"{self.flag} {','.join(given)}: expected NAME=VALUE")
            return {name.strip(): value.strip() for name, _, value in pairs}
        if self.shape == "weights":
            return [self._weighted(part) for text in given for part in text.split(",")]
        return given

    def _weighted(self, text: str) -> dict[str, Any]:
        """`name` or `name:0.5`, as the settings have it."""
        name, sign, weight = text.strip().partition(":")
        if not sign:
            return {"reward": name}
        try:
            return {"reward": name, "weight": float(weight)}
        except ValueError:
            raise UsageError(
                f"{self.flag} {text}: {weight!r} is no number",
                hint=f"write {self.flag} NAME or {self.flag} NAME:WEIGHT; options of a reward go "
                f"into -s '{self.key}=[{{reward: NAME, options: {{...}}}}]'",
            ) from None


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


@dataclass(frozen=True)
class Common:
    """Options that every command has."""

    out: Path | None
    config: list[str]
    set: list[str]
    dry_run: bool
    print_config: bool
    json: bool
    quiet: bool
    verbose: bool
    slice: str | None
    max_time: str | None
    if_locked: str
    log_file: Path | None
    allow_partial: bool

    def slice_of(self) -> tuple[int, int] | None:
        if self.slice is None:
            return None
        match = re.fullmatch(r"(\d+)/(\d+)", self.slice)
        if match is None or int(match[1]) >= int(match[2]):
            raise UsageError(f"--slice {self.slice!r}: expected i/n with i from 0, as 0/4")
        return int(match[1]), int(match[2])

    def locked_policy(self) -> str:
        if self.if_locked not in {"fail", "skip", "wait"}:
            raise UsageError(f"--if-locked {self.if_locked!r}: expected fail, skip or wait")
        return self.if_locked

    def max_seconds(self) -> float | None:
        if self.max_time is None:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", self.max_time)
        if match is None:
            raise UsageError(f"--max-time {self.max_time!r}: expected 90s, 30m, 4h or 1d")
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


COMMON: tuple[inspect.Parameter, ...] = (
    _parameter(
        "out",
        Annotated[
            Path | None, typer.Option("--out", "-o", metavar="DIR", help="New folder to write")
        ],
        None,
    ),
    _parameter(
        "config",
        Annotated[
            list[str],
            typer.Option(
                "--config", "-c", metavar="FILE", help="YAML file or template; repeatable"
            ),
        ],
        [],
    ),
    _parameter(
        "set",
        Annotated[
            list[str],
            typer.Option("-s", "--set", metavar="KEY=VALUE", help="Set any key: -s train.lr=1e-4"),
        ],
        [],
    ),
    _parameter(
        "dry_run", Annotated[bool, typer.Option("--dry-run", help="Say what would be done")], False
    ),
    _parameter(
        "print_config",
        Annotated[bool, typer.Option("--print-config", help="Print the resolved config and stop")],
        False,
    ),
    _parameter(
        "json", Annotated[bool, typer.Option("--json", help="Print the result as JSON")], False
    ),
    _parameter(
        "quiet", Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings")], False
    ),
    _parameter(
        "verbose", Annotated[bool, typer.Option("--verbose", "-v", help="Every metric")], False
    ),
    _parameter(
        "slice",
        Annotated[
            str | None,
            typer.Option("--slice", metavar="I/N", help="Only these shards (job arrays); I from 0"),
        ],
        None,
    ),
    _parameter(
        "max_time",
        Annotated[
            str | None,
            typer.Option(
                "--max-time", metavar="TIME", help="Stop after this long with exit 75: 30m, 4h"
            ),
        ],
        None,
    ),
    _parameter(
        "if_locked",
        Annotated[
            str,
            typer.Option(
                "--if-locked",
                metavar="[fail|skip|wait]",
                help="When another live run holds OUT: fail (exit 6), skip (exit 0) or wait",
            ),
        ],
        "fail",
    ),
    _parameter(
        "log_file",
        Annotated[
            Path | None,
            typer.Option(
                "--log-file",
                metavar="FILE",
                help="Append progress, notes and errors to it, with the time",
            ),
        ],
        None,
    ),
    _parameter(
        "allow_partial",
        Annotated[bool, typer.Option("--allow-partial", help="Read uncommitted inputs")],
        False,
    ),
)

EXECUTION = (
    ConfigOption("--seed", "seed", int),
    ConfigOption("--on-finish", "on_finish"),
    ConfigOption("--device", "execution.device"),
    ConfigOption("--dtype", "execution.dtype"),
    ConfigOption("--workers", "execution.workers", int),
    ConfigOption("--batch-size", "execution.batch_size", int),
)


def command_signature(
    own: Sequence[inspect.Parameter], options: Sequence[ConfigOption]
) -> inspect.Signature:
    """A command's own arguments, then its config options, then the common ones."""
    named = [option.parameter() for option in (*options, *EXECUTION)]
    return inspect.Signature([*own, *named, *COMMON])


def config_values(options: Sequence[ConfigOption], given: dict[str, Any]) -> list[tuple[str, Any]]:
    """(key, value) of the options that were given, removed from `given`."""
    values = []
    for option in (*options, *EXECUTION):
        value = given.pop(option.name)
        if value is not None and value != []:
            values.append((option.key, option.value(value)))
    return values


def with_signature(
    function: Callable[..., None], signature: inspect.Signature, name: str, doc: str
) -> Callable[..., None]:
    """Give a **kwargs function the signature and help that Typer reads."""

    def command(**given: Any) -> None:
        function(**given)

    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    command.__name__ = name.replace("-", "_")
    command.__doc__ = doc
    return command
