"""Options that several commands share. The flags of settings are made from :class:`~stream.settings.Settings`."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

import click
from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from stream.errors import ConfigError
from stream.settings import ENV_PREFIX, Settings

__all__ = ["GroupedCommand", "load_settings", "rate_option", "settings_options", "user_argument"]

#: Variables of ours that are not the service's: the folder of real data for the tests.
_NO_SETTINGS: Final = frozenset({"DATA"})
#: Kubernetes sets such variables in every pod for each service, so also for one whose name begins with ours.
#: In ``NAME_PORT`` it writes an address, which no setting is.
_OF_A_SERVICE: Final = re.compile(
    r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)"
)
_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://")


class GroupedCommand(click.Command):
    """A command that lists the settings in its help under the heading of their group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each settings group. The command's own options come first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "group", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SettingOption(click.Option):
    """A flag made from one settings field."""

    group: str = "Options"


def settings_options(*groups: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a click command the flags of these settings groups and a ``settings`` argument.

    Put it directly under ``@click.command(cls=GroupedCommand)``. A setting without its flag comes from the environment
    or from ``.env``.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            flags = {name: kwargs.pop(name) for name in names}
            settings = load_settings(**{name: value for name, value in flags.items() if value is not None})
            return function(*args, settings=settings, **kwargs)

        params: list[click.Parameter] = getattr(function, "__click_params__", [])
        params.extend(_option(name, Settings.model_fields[name]) for name in reversed(names))
        run.__click_params__ = params  # type: ignore[attr-defined]
        return run

    names = [name for name, field in Settings.model_fields.items() if _group(field) in groups]
    return decorate


def user_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the argument ID, which is a user's id, as ``user_id``."""
    return click.argument("user_id", metavar="ID", callback=_require_utf8)(function)


def rate_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a click command that sends events the option --rate."""
    return click.option("--rate", default="max", show_default=True, metavar="max|N|xK", help=help)


def _require_utf8(_context: click.Context, _param: click.Parameter, user_id: str) -> str:
    """Return the id as it is. Raises ConfigError if the shell gave bytes that no event can carry."""
    try:
        user_id.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"user id is {user_id!r}, expected UTF-8 text; check the id and the character set of your terminal"
        ) from None
    return user_id


def load_settings(**flags: Any) -> Settings:
    """Read the settings: flags win over the environment, which wins over ``.env``.

    Raises ConfigError with one line that names each wrong setting, and for a variable that is no setting.
    """
    _check_names(os.environ)
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_error_words, error.errors()))) from None
    except SettingsError as error:
        raise ConfigError(f"{error}; expected JSON in that variable") from None


def _error_words(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    return (
        f"setting {'.'.join(map(str, error['loc']))}: found {_shown_input(error)}, {message[0].lower()}{message[1:]};"
        f" set it by flag or {ENV_PREFIX}{str(error['loc'][0]).upper()}"
    )


def _check_names(environ: Mapping[str, str]) -> None:
    """Refuse variables of ours, in the environment or in ``.env``, that are no setting: nothing would read them."""
    known = {name.upper() for name in Settings.model_fields}
    for name, value in {**_env_file(), **environ}.items():
        setting = name.upper().removeprefix(ENV_PREFIX)
        if not name.upper().startswith(ENV_PREFIX) or setting in known or _is_of_others(setting, value or ""):
            continue
        near = get_close_matches(setting, known, n=1)
        meant = f"did you mean {ENV_PREFIX}{near[0]}?" if near else "`valuestream worker --help` lists all settings"
        raise ConfigError(f"{name} is set and is no setting, expected one that the service reads; {meant}")


def _is_of_others(name: str, value: str) -> bool:
    """Whether this variable, without our prefix, is set by others for purposes of their own."""
    is_address = name.endswith("PORT") and _ADDRESS.match(value) is not None
    return name in _NO_SETTINGS or is_address or _OF_A_SERVICE.fullmatch(name) is not None


def _env_file() -> dict[str, str | None]:
    """The variables in ``.env``."""
    file = Settings.model_config.get("env_file")
    if not isinstance(file, str) or not Path(file).is_file():
        return {}
    try:
        return dict(dotenv_values(file))
    except UnicodeDecodeError:
        raise ConfigError(
            f"{file} is not UTF-8, expected lines of NAME=value in UTF-8; save it in that encoding"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); check its rights, or remove it") from None


def _shown_input(error: ErrorDetails) -> str:
    """The wrong value, unless it is a secret."""
    field = Settings.model_fields.get(str(error["loc"][0]))
    return "a secret" if field is not None and field.annotation is SecretStr else repr(error["input"])


def _option(name: str, field: FieldInfo) -> SettingOption:
    choices = get_args(field.annotation) if "Literal" in str(field.annotation) else ()
    choices = ("true", "false") if field.annotation == bool | None else choices
    default = "" if field.default in (None, "", {}, [], SecretStr("")) else f"  [default: {field.default}]"
    metavar = _metavar(name, field)
    option = SettingOption(
        [f"--{name.replace('_', '-')}"],
        type=click.Choice(choices) if choices else json.loads if metavar == "JSON" else str,
        default=None,
        help=f"{field.description}{default}",
        metavar=None if choices else metavar,
    )
    option.group = _group(field)
    return option


def _group(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["group"]) if isinstance(extra, dict) else "Options"


def _metavar(name: str, field: FieldInfo) -> str:
    if field.annotation is float:
        return "SECONDS" if name.endswith("_s") else "X"
    kinds: dict[Any, str] = {int: "N", str: "TEXT", SecretStr: "TEXT", dict[str, float]: "JSON"}
    return "JSON" if field.annotation == list[str] else kinds.get(field.annotation, "PATH")
