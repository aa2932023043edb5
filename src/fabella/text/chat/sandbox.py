"""Jinja environment for templates of unknown origin: what Transformers provides, with limits on time and memory.

Jinja's sandbox keeps a template away from Python's internals, but not from loops over 10^9 items or strings of 10 GB.
Here every iteration, call and filter is charged to a budget that a render has (``Budget``), strings and containers have
a maximum size, and what can grow without bound (``**``, repeated strings, ``format``, ``center``) does not exist.
"""

import json
import re
from collections.abc import Callable, Sized
from datetime import datetime
from typing import Any

from jinja2 import Environment, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from fabella.text.chat.marks import ANSWER_END, ANSWER_START

BUDGET = 2**26
"""Units of a render, and BUDGET_PER_CHARACTER for each character of the conversation: a thousand messages need 2^24."""
BUDGET_PER_CHARACTER = 100
MIN_ITERATION_COST = 1000
MAX_CHARACTERS = 2**20
"""Characters of a string that a template builds, beyond those of the conversation."""
MAX_ITEMS = 100_000
"""Values in a list or dict that a template builds, nested ones included."""
MAX_INTEGER = 2**63
BUDGET_VARIABLE = " budget"
"""Variable of the budget: a name that no template can write."""

STRING_METHODS = frozenset(
    {"capitalize", "count", "endswith", "find", "isalpha", "isdigit", "isspace", "join", "lower", "lstrip", "replace",
     "removeprefix", "removesuffix", "rfind", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title",
     "upper"}
)  # fmt: skip
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length",
    "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr",
    "sort", "title", "trim", "unique", "upper",
)  # fmt: skip  # fmt: skip
TESTS_LEFT_OUT = ("filter", "test")


class Budget:
    """What a render may still do, and the most characters of a string."""

    def __init__(self, characters: int) -> None:
        self._left = BUDGET + BUDGET_PER_CHARACTER * characters
        self._max_characters = MAX_CHARACTERS + 2 * characters

    def charge(self, units: int) -> None:
        """Raise SecurityError if more is used up than there is."""
        self._left -= units
        if self._left < 0:
            raise SecurityError("the template does not end within its limit of operations")

    def require_characters(self, characters: int) -> None:
        """Charge a string of this length. Raise SecurityError if it is too long."""
        if characters > self._max_characters:
            raise SecurityError(f"the template builds a string of {characters:,} characters")
        self.charge(characters)

    def require_container(self, value: Any) -> None:
        """Charge all values nested in a container. Raise SecurityError for too many of them."""
        pending, count = [value], 0
        while pending:
            inner = pending.pop()
            count += 1
            if count > MAX_ITEMS:
                raise SecurityError(f"the template builds a list of more than {MAX_ITEMS:,} values")
            if isinstance(inner, str):
                self.charge(len(inner))
            elif isinstance(inner, dict):
                pending += [*inner.keys(), *inner.values()]
            elif isinstance(inner, list | tuple | set):
                pending += inner
        self.charge(count)


def raise_exception(message: Any) -> None:
    """Refuse a conversation, as templates on the hub do."""
    raise TemplateError(str(message)[:300])


def _strftime_now(pattern: Any) -> str:
    if not re.fullmatch(r"(?:[^%]|%[A-Za-z%]){0,100}", str(pattern)):  # a width gives a string of any length
        raise SecurityError(f"the pattern of time {str(pattern)[:50]!r} is not supported")
    return datetime.now().astimezone().strftime(str(pattern))


def _budget(context: Context) -> Budget:
    return context.parent[BUDGET_VARIABLE]


def _text(budget: Budget, value: Any) -> str:
    if isinstance(value, str):
        budget.require_characters(len(value))
        return value
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise SecurityError("the template uses too large a number")
    budget.require_container(value)
    return str(value)


@pass_context
def _as_text(context: Context, value: Any) -> str:
    return _text(_budget(context), value)


@pass_context
def _container(context: Context, value: Any) -> Any:
    _budget(context).require_container(value)
    return value


@pass_context
def _loop_items(context: Context, value: Any) -> Any:
    budget, cost = _budget(context), context.environment.iteration_cost  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, Sized):
        budget.charge(cost * len(value))
        return value if isinstance(value, list | tuple) else list(value)  # pyright: ignore[reportArgumentType]
    items: list[Any] = []
    for item in value:
        budget.charge(cost)
        items.append(item)
    return items


@pass_context
def _replace(context: Context, value: Any, old: Any, new: Any, count: int = -1) -> str:
    budget = _budget(context)
    text, old, new = _text(budget, value), _text(budget, old), _text(budget, new)
    budget.require_characters(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


@pass_context
def _join(context: Context, values: Any, separator: Any = "", attribute: Any = None) -> str:
    budget = _budget(context)
    environment: Any = context.environment
    items = values if attribute is None else environment.filters["map"](context, values, attribute=attribute)
    between = _text(budget, separator)
    texts: list[str] = []
    size = 0
    for item in items:
        texts.append(_text(budget, item))
        size += len(texts[-1]) + len(between)
        budget.require_characters(size)
    return between.join(texts)


@pass_context
def _tojson(
    context: Context, value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
    sort_keys: bool = False,
) -> str:  # fmt: skip
    """JSON as Transformers writes it: without escapes for HTML."""
    _budget(context).require_container(value)
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError(f"tojson(indent={indent}) is out of range: 0 to 16")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter of Jinja that is charged for the size of its input."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    @pass_context
    def call(context: Context, value: Any, *arguments: Any, **options: Any) -> Any:
        _budget(context).charge(1 + (len(value) if isinstance(value, Sized) else 0))
        first = {"context": [context], "eval_context": [context.eval_ctx], "environment": [context.environment]}
        return function(*first.get(passed, []), value, *arguments, **options)

    return call


class _Limits(NodeTransformer):
    """Insert the limits into the syntax tree of a template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - a name of Jinja
        if node.recursive:
            raise TemplateSyntaxError("recursive loops are not supported", node.lineno)
        self.generic_visit(node)
        node.iter = _filter(node.iter, "loop_items")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - a name of Jinja
        self.generic_visit(node)
        first, *others = [_filter(part, "string") for part in node.nodes]
        result: nodes.Expr = first
        for part in others:
            result = nodes.Add(result, part, lineno=node.lineno)
        return result

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802 - a name of Jinja
        return self.generic_visit(node) and _filter(node, "container")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802 - a name of Jinja
        return self.generic_visit(node) and _filter(node, "container")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - a name of Jinja
        self.generic_visit(node)
        return _filter(node, "container") if node.ctx == "load" else node


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class GenerationTag(Extension):
    """``{% generation %}…{% endgeneration %}``: the part of a message that the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 - the form that Jinja expects

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the block with marks around it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    @staticmethod
    def marked(caller: Callable[[], str]) -> str:
        """Return what the block writes, as an answer."""
        return f"{ANSWER_START}{caller()}{ANSWER_END}"


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Environment in which a chat template renders as in Transformers, within limits."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, source: str) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
            finalize=_as_text,
            cache_size=0,
        )
        self.iteration_cost = max(len(source), MIN_ITERATION_COST)
        given = Environment(autoescape=False)  # noqa: S701 - only its filters are used; text is no HTML
        self.filters = {name: _charged(given.filters[name]) for name in FILTERS} | {
            "replace": _replace, "join": _join, "tojson": _tojson, "string": _as_text, "container": _container,
            "loop_items": _loop_items,
        }  # fmt: skip
        self.tests = {name: test for name, test in given.tests.items() if name not in TESTS_LEFT_OUT}
        self.globals = {
            name: self.globals[name] for name in ("range", "namespace", "dict")
        } | {"raise_exception": raise_exception, "strftime_now": _strftime_now}  # fmt: skip

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Limits().visit(super()._parse(source, name, filename))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator to numbers; ``+`` also to strings and lists. Raise SecurityError for anything else."""
        numbers = all(isinstance(side, int | float) and abs(side) < MAX_INTEGER for side in (left, right))
        if operator == "+" and not numbers:
            budget = _budget(context)
            if isinstance(left, str) and isinstance(right, str):
                budget.require_characters(len(left) + len(right))
            else:
                budget.require_container([left, right])
        elif operator == "**" or not numbers:
            raise SecurityError(f"{type(left).__name__} {operator} {type(right).__name__} is not supported")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Refuse ``str.format``: a width in the format gives a string of any length."""
        if getattr(value, "__name__", "") in ("format", "format_map") and isinstance(
            getattr(value, "__self__", None), str
        ):
            raise SecurityError("the string method format is not supported")
        return None

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, macro or method within the budget."""
        budget = _budget(__context)
        budget.charge(self.iteration_cost)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes):
            self._require_string_method(budget, str(owner), __obj.__name__, args)
            if __obj.__name__ == "join":
                args = (list(args[0]),)
                budget.require_characters(sum(len(str(part)) + len(owner) for part in args[0]))
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, dict | list | tuple):
            budget.require_container(result)
        return result

    @staticmethod
    def _require_string_method(budget: Budget, owner: str, name: str, args: tuple[Any, ...]) -> None:
        if name not in STRING_METHODS:
            raise SecurityError(f"the string method {name} is not supported")
        budget.charge(len(owner))
        if name == "replace" and len(args) > 1:
            budget.require_characters(len(owner) + owner.count(str(args[0])) * len(str(args[1])))
