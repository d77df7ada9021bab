"""Settings: frozen, documented field by field, read from a mapping that the caller passes in.

A settings class is a pydantic model whose fields carry a docstring with unit and range. One declaration gives the
environment variable, the command-line option, the default and the line in the documentation; or the parameter behind
the ? of a URL. Nothing here reads the process's environment: `__main__` modules, `cli` and `lambda_function.py` pass it
in.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, ValidationError

from cutbank.errors import UsageError

ENVIRONMENT_PREFIX = "CUTBANK_"


class Settings(BaseModel):
    """Base of all settings. A field's variable is `CUTBANK_<FIELD>`, or the one named in `environment_names`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    environment_names: ClassVar[Mapping[str, str]] = {}
    """Fields whose environment variable has a name of its own, such as the tutorial's STREAM_NAME."""

    @classmethod
    def environment_name(cls, field: str) -> str:
        """The environment variable of a field."""
        return cls.environment_names.get(field, ENVIRONMENT_PREFIX + field.upper())

    @classmethod
    def load(cls, environ: Mapping[str, str], **given: Any) -> Self:
        """From the environment, overridden by what is `given` and not None. Raises UsageError: one line, all faults."""
        values: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for field in cls.model_fields:
            variable = cls.environment_name(field)
            if variable in environ:
                values[field], origin[field] = environ[variable], variable
        for field, value in given.items():
            if value is not None:
                values[field], origin[field] = value, "--" + field.replace("_", "-")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError(one_line(error, origin)) from None


S = TypeVar("S", bound=Settings)


def settings_of(what: str, url: str, kind: type[S]) -> S:
    """The settings that the parameters of `url`, behind its ?, give (RFC 3986, `name=value&name=value`).

    `what` is for messages, such as "transport URL". Raises UsageError: one line that names the parameter that is wrong;
    it repeats no parameter that is not known, since that may be a secret which belongs elsewhere.
    """
    place, _, query = url.partition("?")
    try:
        parameters = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        lone = [repr(part) for part in query.split("&") if part in kind.model_fields]
        raise UsageError(f"{what} {place!r}: {' '.join(lone) or 'what follows the ?'} is not name=value") from None
    given: dict[str, Any] = {}
    for name, value in parameters:
        if name in given:
            raise UsageError(f"{what} {place!r}: parameter {name} is there twice")
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise UsageError(f"{what} {place!r}: unknown parameter {name!r}; known are {known}")
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"{what} {url!r}: {one_line(error)}") from None


def one_line(error: ValidationError, origin: Mapping[str, str] | None = None) -> str:
    """Pydantic's findings as one line: where, what is wrong, what was given."""
    parts = []
    for finding in error.errors(include_url=False):
        if finding["type"] == "default_factory_not_called":
            continue  # follows from the others
        location = [str(part) for part in finding["loc"]]
        if location and origin and location[0] in origin:
            location[0] = origin[location[0]]
        where = ".".join(location)
        given = "" if finding["type"] == "missing" else f" (given: {str(finding['input'])[:80]!r})"
        message = finding["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {message}{given}" if where else message)
    return "; ".join(parts)
