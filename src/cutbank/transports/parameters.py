"""The part of a transport's URL behind the ?: parameters that set the fields of its settings. Values only; no I/O."""

from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError

from cutbank.errors import UsageError
from cutbank.settings import Settings, one_line

S = TypeVar("S", bound=Settings)


def settings_of(url: str, query: str, kind: type[S]) -> S:
    """The settings that `query` (RFC 3986, `name=value&name=value`) gives; `url` is for messages.

    Raises UsageError: one line that names the parameter that is wrong.
    """
    given: dict[str, Any] = {}
    try:
        parameters = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise UsageError(f"transport URL {url!r}: {query!r} is not name=value&name=value") from None
    for name, value in parameters:
        if name in given:
            raise UsageError(f"transport URL {url!r}: parameter {name} is there twice")
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise UsageError(f"transport URL {url!r}: unknown parameter {name!r}; known are {known}")
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"transport URL {url!r}: {one_line(error)}") from None
