"""Settings: frozen, documented field by field, read from a mapping that the caller passes in.

A settings class is a pydantic model whose fields carry a docstring with unit and range. One declaration gives the
environment variable, the command-line option, the default and the line in the documentation. Nothing here reads the
process's environment: `__main__` modules, `cli` and `lambda_function.py` pass it in.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

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
