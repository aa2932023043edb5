"""Sizes, durations and counts for people."""

import math
from collections.abc import Collection, Sequence


def format_bytes(size: int) -> str:
    """Return a size in decimal units: ``812 bytes``, ``4.1 kB``, ``48 MB``, ``1.8 GB``."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    number = f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{value:.0f}"
    return f"{number} {unit}"


def format_duration(seconds: float) -> str:
    """Return a duration: ``1:05`` (minutes and seconds), ``2:03:04`` from an hour on, ``2 d 4 h`` from a day on."""
    total = round(seconds)
    if total >= 86400:
        return f"{total // 86400} d {total % 86400 // 3600} h"
    minutes, rest = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number_of(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 document``, ``2,000 documents``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_share(share: float) -> str:
    """Return a share as a percentage that is 100 % only for all of it: ``99.9 %``, ``0.1 %``."""
    percent = 100 * share
    if 99.9 < percent < 100:
        return ">99.9 %"
    return f"{percent:.1f} %" if percent >= 0.05 else f"{percent:.2g} %"


def format_number(value: float, decimals: int) -> str:
    """Return a number with ``decimals``, from a million on in scientific notation: ``1,234.50``, ``7.86e+182``."""
    return f"{value:,.{decimals}f}" if abs(value) < 1e6 else f"{value:.2e}"


def format_exp(exponent: float, decimals: int = 2) -> str:
    """Return e to the power of ``exponent``, e.g. a perplexity or a probability: ``1,234.50``, ``7.86e+182``.

    Below 0.0001 and from a million on it is in scientific notation; it neither overflows nor becomes 0.
    """
    if not math.isfinite(exponent):
        return str(math.exp(exponent))
    decimal = exponent / math.log(10)
    if -4 <= decimal < 6:
        return f"{math.exp(exponent):,.{decimals}f}"
    power = math.floor(decimal)
    digits = f"{10 ** (decimal - power):.2f}"
    if digits == "10.00":
        digits, power = "1.00", power + 1
    return f"{digits}e{power:+03d}"


def align_columns(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return one line per row, in columns of equal width: those with a number in ``left`` are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
