"""Options of a command from a TOML file (`--config`), and such a file with every option (`--print-config`)."""

import json
import textwrap
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from polypstream.errors import ConfigError

_NOT_IN_FILES = frozenset({"config", "print_config", "list_devices", "help"})


def _read(context: typer.Context, file: Path | None) -> Path | None:
    """Use the values of a file as defaults of the command."""
    if file is not None and not context.resilient_parsing:
        context.default_map = {**(context.default_map or {}), **_values(file, context)}
    return file


def _print(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(_document(context), nl=False)
        raise typer.Exit


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_read,
        help="TOML file with options, in a table of the command's name. The command line takes precedence.",
    ),
]
PrintConfigOption = Annotated[
    bool,
    typer.Option(
        "--print-config",
        is_eager=True,
        callback=_print,
        help="Print a configuration file with every option, as it is in --config or by default, and exit.",
    ),
]


def _values(file: Path, context: typer.Context) -> dict[str, Any]:
    """The options of a file by the names of the command's parameters.

    Raises:
        ConfigError: The file cannot be read, or has a key or value that the command does not accept.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); give a TOML file to --config") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{file} is not valid TOML ({error}); see --print-config") from None
    parent = context.parent
    commands = sorted(parent.command.commands) if parent is not None else []  # type: ignore[attr-defined]
    command = str(context.info_name)
    for name, table in tables.items():
        if name not in commands or not isinstance(table, dict):
            raise ConfigError(f"{file}: {_unknown(name, commands)}; put options into a table [{command}]")
    params = {_key(param.name): param for param in context.command.params if param.name not in _NOT_IN_FILES}
    values = {}
    for key, value in tables.get(command, {}).items():
        param = params.get(key.replace("_", "-"))
        if param is None:
            raise ConfigError(f"{file}: [{command}] {_unknown(key, list(params))}")
        is_list = getattr(param, "multiple", False) or param.nargs == -1
        is_flag = getattr(param, "is_flag", False)
        values[str(param.name)] = _checked(value, f"{file}: [{command}] {key}", is_list=is_list, is_flag=is_flag)
    return values


def _key(name: str | None) -> str:
    return str(name).replace("_", "-")


def _unknown(name: str, known: list[str]) -> str:
    nearest = get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0)
    return f"unknown key '{name}'" + (f"; the nearest known one is '{nearest[0]}'" if nearest else "")


def _checked(value: object, place: str, *, is_list: bool, is_flag: bool) -> object:
    """A TOML value as Click accepts it."""
    if is_flag:
        if not isinstance(value, bool):
            raise ConfigError(f"{place} is {value!r}; use true or false")
        return value
    values = value if isinstance(value, list) and is_list else [value]
    if not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values):
        raise ConfigError(f"{place} is {value!r}; use a text or a number{' or a list of them' if is_list else ''}")
    return values if is_list else value


def _document(context: typer.Context) -> str:
    """A TOML file with every option; those without a value are commented out."""
    lines = [f"[{context.info_name}]"]
    for param in context.command.params:
        if param.name in _NOT_IN_FILES:
            continue
        lines += ["", *(f"# {line}" for line in textwrap.wrap(getattr(param, "help", None) or "", 117))]
        value: Any = param.get_default(context)
        if value is None or value == ():
            lines.append(f"# {_key(param.name)} =")
        else:
            plain = value if isinstance(value, bool | int | float | list) else str(getattr(value, "value", value))
            lines.append(f"{_key(param.name)} = {json.dumps(plain, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
