"""Names of encodings, as users and detectors spell them."""

import codecs
from functools import cache

from fabella.errors import TextError, did_you_mean

AUTO = "auto"
USUAL = (
    "utf-8", "utf-16", "utf-32", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257",
    "cp1258", "latin-1", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9", "iso8859-15", "koi8-r", "koi8-u", "cp437",
    "cp850", "cp852", "cp866", "mac-roman", "mac-cyrillic", "shift_jis", "cp932", "euc_jp", "iso2022_jp", "euc_kr",
    "cp949", "gb18030", "big5", "tis-620",
)  # fmt: skip
"""Encodings that are suggested for a name that Python does not have."""
NO_TEXT = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem", "palmos")
"""Codecs that are not encodings of text files."""


@cache
def canonical_name(name: str) -> str:
    """Return an encoding's name as Python spells it (``Windows-1252`` → ``cp1252``); empty for an unknown one."""
    try:
        info = codecs.lookup(name.strip())
        "".encode(info.name)  # refuses codecs that are no encodings of text, such as base64
    except (LookupError, ValueError, UnicodeError):  # ValueError: a NUL in the name
        return ""
    return "" if info.name.replace("-", "_") in NO_TEXT else info.name


@cache
def usual_names() -> tuple[str, ...]:
    """Return the usual encodings as Python spells them."""
    return tuple(map(canonical_name, USUAL))


def require_encoding(name: str) -> str:
    """Return ``auto``, or the name of an encoding as Python spells it. Raises TextError for an unknown one."""
    if name.strip().lower() == AUTO:
        return AUTO
    if known := canonical_name(name):
        return known
    raise TextError(f"Unknown encoding {name!r}.", hint=did_you_mean(name, (AUTO, *USUAL)))
