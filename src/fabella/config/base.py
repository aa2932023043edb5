"""Base class and shared field types of the config sections."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""Integer from 1 to 2**31 - 1."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""Number from 0 to 1."""
# YAML and the command line give lists; the frozen section holds tuples.
Pair = Annotated[tuple[int, int], Field(strict=False)]
Pairs = Annotated[tuple[Pair, ...], Field(strict=False, min_length=1)]


MAX_FILE_NAME_BYTES = 200
"""A name becomes part of longer names: of temporary files and of directories of datasets. Systems take 255 bytes."""
_FORBIDDEN = set('/\\:*?"<>|')
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}


def _require_file_name(name: str) -> str:
    """Return ``name`` if it is one plain file name on every system. Raises ValueError."""
    shown = ascii(name[:20])
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_FILE_NAME_BYTES:
        raise ValueError(f"{shown}… has {size:,} bytes; the name of a directory has at most {MAX_FILE_NAME_BYTES}")
    if not name.isprintable() or _FORBIDDEN & set(name):
        raise ValueError(
            f'{shown} cannot be the name of a directory: it has a character of / \\ : * ? " < > |, or one that cannot '
            "be printed; use letters, digits and -"
        )
    if name != name.strip(" .") or name.split(".")[0].upper() in _RESERVED:
        raise ValueError(
            f"{shown} cannot be the name of a directory on every system: it is reserved, or has a space or a dot at "
            "its beginning or end; use letters, digits and -"
        )
    return name


FileName = Annotated[str, Field(min_length=1), AfterValidator(_require_file_name)]
"""Name that a file or directory has: never a path, whatever file it comes from."""


class ConfigModel(BaseModel):
    """Frozen config section with strict types; it refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)
