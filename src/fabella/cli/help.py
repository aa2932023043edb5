"""Help texts of commands: types and defaults in a readable form."""

import re
from typing import Any

from typer.core import TyperCommand

TYPES = {
    "int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "str": "TEXT", "list[str]": "TEXT",
    "path": "PATH", "list[path]": "PATH",
}  # fmt: skip
"""Type as typer shows it → placeholder of the value."""
OVERRIDES = "overrides"
"""Argument whose values are settings."""
NOTHING = {"0", "0.0", "", "None"}
"""Defaults that mean "none" or "as in the config": the text of the option says it in words."""


class Command(TyperCommand):
    """Command that shows ``--steps N`` for ``--steps <int range>``, and no default that means nothing."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            records = [param.get_help_record(ctx) for param in self.get_params(ctx) if param.param_type_name == kind]
            rows = [(readable_name(name), readable_help(text)) for name, text in filter(None, records)]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def readable_name(name: str) -> str:
    """Return ``--steps N`` for ``--steps <int range>``, and ``[KEY=VALUE]...`` for the settings."""
    if name.startswith(OVERRIDES):
        return "[KEY=VALUE]..."
    return re.sub(r"<([^<>]+)>", lambda match: TYPES.get(match[1], match[1].upper()), name)


def readable_help(text: str) -> str:
    """Drop ranges and defaults that mean nothing from the end of a help text: ``[default: 0; x>=0]``."""
    match = re.search(r"  \[([^\[\]]*)\]$", text)
    if not match:
        return text
    facts = [fact for fact in match[1].split("; ") if not re.fullmatch(r"[-\d.<=]*x[-\d.<>=]*", fact)]
    facts = [fact for fact in facts if fact.removeprefix("default: ") not in NOTHING]
    return text[: match.start()] + (f"  [{'; '.join(facts)}]" if facts else "")
