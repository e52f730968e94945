"""Turns a frozen dataclass into a command line and a YAML block: one field is one flag, one key, one default, one help.

@dataclass(frozen=True)
class CacheSettings:
    '''Run the teacher once and keep what it says.'''
    top_k: int = option(16, "Probabilities kept per position", minimum=1)

settings = parse(CacheSettings, ["--top_k", "8"])
"""

from __future__ import annotations

import argparse
import inspect
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from embervlm.errors import UserError

S = TypeVar("S")
_NONE = ("none", "null")


def option(
    default: Any,
    help: str,
    *,
    group: str = "Options",
    choices: Sequence[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    key: str | None = "",
    shown: str | None = None,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        key: dotted key in the settings file; "" = the field's name, None = not allowed there, "!key" = its opposite.
        shown: how `--help` writes the default, where it is not the value itself.
    """
    limits = (minimum, maximum)
    metadata = {"help": help, "group": group, "choices": tuple(choices), "limits": limits, "key": key, "shown": shown}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Flag:
    """What a dataclass field says about its flag."""

    name: str
    type: type  # str, int, float, bool or Path; of the items where `many`
    many: bool
    optional: bool  # `none` is a value
    default: Any
    help: str
    group: str
    choices: tuple[str, ...]
    limits: tuple[float | None, float | None]
    key: str | None
    shown: str | None

    def convert(self, value: Any, said: str) -> Any:
        """A value from the command line (text) or YAML, checked. `said` names where it stands, for the person."""
        word = value[0] if isinstance(value, list) and len(value) == 1 else value
        if value is None or (isinstance(word, str) and word.lower() in _NONE):
            if self.optional:
                return None
            raise UserError(f"{said} is none; it takes {self.wants()}.")
        if self.many:
            items = value if isinstance(value, list) else [value]
            if self.type is str:  # `- name: 0.6` in YAML is name:0.6 on the command line
                items = [word for item in items for word in (_joined(item) if isinstance(item, dict) else [item])]
            if self.type is not Path:  # --benchmarks vqa,okvqa is --benchmarks vqa okvqa
                items = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
            return tuple(self._convert_one(item, said) for item in items)
        return self._convert_one(value, said)

    def _convert_one(self, value: Any, said: str) -> Any:
        try:
            result = _to(self.type, value)
        except (TypeError, ValueError):
            raise UserError(f"{said} is {value!r}; it takes {self.wants()}.") from None
        least, most = self.limits
        outside = (least is not None and result < least) or (most is not None and result > most)
        if outside or (self.choices and result not in self.choices):
            raise UserError(f"{said} is {value!r}; it takes {self.wants()}{did_you_mean(str(value), self.choices)}")
        return result

    def wants(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", str: "a text"}
        least, most = self.limits
        if least is not None and most is not None:
            return f"{words[self.type]} from {least:g} to {most:g}"
        return words[self.type] + (f", at least {least:g}" if least is not None else "")


def flags_of(settings: type) -> dict[str, Flag]:
    """Every option of a settings class by name, in the order of its fields, inherited ones last."""
    hints, own = get_type_hints(settings), inspect.get_annotations(settings)
    ordered = sorted(fields(settings), key=lambda item: item.name not in own)
    return {item.name: _flag(item, hints[item.name]) for item in ordered if "help" in item.metadata}


def _flag(item: Field[Any], hint: Any) -> Flag:
    optional = many = False
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
        optional = True
    if get_origin(hint) is tuple:
        hint, many = get_args(hint)[0], True
    return Flag(name=item.name, type=hint, many=many, optional=optional, default=item.default, **item.metadata)


def _joined(pairs: Mapping[Any, Any]) -> list[str]:
    return [f"{key}:{value}" for key, value in pairs.items()]


def _to(kind: type, value: Any) -> Any:
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool | dict | list):
        raise TypeError
    if kind is int and isinstance(value, float):
        if not value.is_integer():
            raise ValueError
        return int(value)
    result = kind(value)
    if kind is float and not math.isfinite(result):
        raise ValueError
    return result


def parse_flags(settings: type, argv: Sequence[str]) -> dict[str, Any]:
    """The values that the command line gives, and only those.

    Raises:
        UserError: unknown flag (names the nearest), a value of the wrong type, a word without a flag.
    """
    flags = flags_of(settings)
    parser = _Parser(prog="", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in flags.values():
        if flag.type is bool:
            parser.add_argument(f"--{flag.name}", action="store_true")
            parser.add_argument(f"--no_{flag.name}", action="store_false", dest=flag.name)
        else:
            parser.add_argument(f"--{flag.name}", nargs="+" if flag.many else None)
    given, unknown = parser.parse_known_args([_underscored(word) for word in argv])
    if unknown:
        raise UserError(_what_is(unknown[0], flags))
    return {name: flags[name].convert(value, f"--{name}") for name, value in vars(given).items()}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message.replace('argument ', '', 1)} (--help lists the flags)")


def _underscored(word: str) -> str:
    """--batch-size=8 means --batch_size=8."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _what_is(word: str, flags: Mapping[str, Flag]) -> str:
    if not word.startswith("-"):
        return f"{word!r} belongs to no flag; flags that take no value are turned off with --no_NAME."
    name = word.lstrip("-").partition("=")[0]
    return f"There is no flag --{name}{did_you_mean(name, list(flags), '--')} --help lists them."


def did_you_mean(name: str, known: Sequence[str], prefix: str = "") -> str:
    """The end of a sentence: the names that were perhaps meant, where any come near."""
    near = get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(prefix + word for word in near)}?" if near else "."


def parse_block(settings: type, block: Any, where: str) -> dict[str, Any]:
    """The values of one block of a settings file, under the names of the fields.

    Raises:
        UserError: unknown key (names the nearest), a value of the wrong type.
    """
    by_key = {(flag.key or name).lstrip("!"): flag for name, flag in flags_of(settings).items() if flag.key is not None}
    values = {}
    for key, value in _flatten(block, where, {key.partition(".")[0] for key in by_key if "." in key}).items():
        if key not in by_key:
            raise UserError(f"{where} has an unknown key {key}{did_you_mean(key, list(by_key))}")
        flag = by_key[key]
        result = flag.convert(value, f"{key} in {where}")
        values[flag.name] = (not result) if (flag.key or "").startswith("!") else result
    return values


def _flatten(block: Any, where: str, nested: set[str]) -> dict[str, Any]:
    if block is None:
        return {}
    if not isinstance(block, dict):
        raise UserError(f"{where} holds {block!r}; expected keys with values.")
    flat: dict[str, Any] = {}
    for key, value in block.items():
        if key in nested:
            flat |= {f"{key}.{inner}": held for inner, held in _flatten(value, f"{key} in {where}", set()).items()}
        else:
            flat[str(key)] = value
    return flat


def parse(settings: type[S], argv: Sequence[str]) -> S:
    """The command line over a settings file (for classes with a `config` flag) over the dataclass's defaults.

    A class with `resolve(given)` layers them itself.
    """
    given = parse_flags(settings, argv)
    if resolve := getattr(settings, "resolve", None):
        return resolve(given)
    path = given.get("config")
    filed = {} if path is None else parse_block(settings, read_yaml(path), str(path))
    return settings(**{**filed, **given})


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a settings file.

    Raises:
        UserError: no such file, not YAML, no keys.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The settings file {path} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The settings file {path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UserError(f"The settings file {path} holds no keys; expected lines like `batch_size: 64`.")
    return content


def as_dict(settings: Any) -> dict[str, Any]:
    """Every option as JSON can hold it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return value.as_posix()
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {name: plain(getattr(settings, name)) for name in flags_of(type(settings))}
