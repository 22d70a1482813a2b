"""Chat templates, which come with a model's folder, rendered as transformers renders them, but within limits.

A template is a program of whoever made the folder. jinja's sandbox keeps it from Python; here it is also kept from
loops without an end and from filling memory. Every pass of a loop, every call and every filter is counted, whatever an
expression makes is measured, and what could make much out of little is worked out beforehand. What a template writes
within the limits is, byte for byte, what ``apply_chat_template`` gives.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import ItemsView, KeysView, Mapping, Sequence, ValuesView
from datetime import datetime
from functools import lru_cache, update_wrapper
from types import CodeType, MappingProxyType
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ..errors import InputError

LONGEST = 2**18
"""Letters of a template; published ones have up to some 30,000."""

MOST_STEPS = 100_000
"""Passes of loops, calls, operators and filters; published templates take some hundred."""

MOST_LETTERS = 2**23
"""All that is made on the way, in letters and entries of lists; a prompt as long as any context is a quarter of it."""

MOST_SECONDS = 3.0
"""Of this thread's own work; published templates take some milliseconds."""

MOST_BITS = 2**12
"""Of a whole number."""

FILTERS = frozenset(
    (
        "abs", "attr", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "first",
        "float", "forceescape", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list",
        "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select",
        "selectattr", "sort", "string", "sum", "title", "tojson", "trim", "truncate", "unique", "upper",
        "urlencode", "wordcount",
    )
)  # fmt: skip
"""jinja's filters whose work grows with their input alone, or is worked out beforehand here."""

METHODS: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        str: frozenset(
            (
                "capitalize", "casefold", "center", "count", "endswith", "find", "format", "index", "isalnum",
                "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable",
                "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix",
                "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split",
                "splitlines", "startswith", "strip", "swapcase", "title", "upper", "zfill",
            )
        ),
        bytes: frozenset(),
        int: frozenset(),
        bool: frozenset(),
        float: frozenset(("is_integer",)),
        list: frozenset(("copy", "count", "index")),
        tuple: frozenset(("count", "index")),
        dict: frozenset(("copy", "get", "items", "keys", "values")),
    }
)  # fmt: skip
"""Methods of plain values that a template may call."""

_PERCENT = re.compile(r"%(\([^)]*\))?[-#0 +_^]*(\*|\d{4}|\d*\.(\*|\d{4}))")
_FIELD = re.compile(r"\{[^{}]*:[^{}]*(\d{4}|\{)")
"""Formats that say a width of thousands, or have it said by another value."""


class TemplateLimit(InputError):
    """A chat template that goes beyond the limits."""


class _Over(Exception):
    """The limit that was reached, in words."""


def render(template: str, messages: Sequence[Mapping[str, Any]], tokens: Mapping[str, Any], name: str) -> str:
    """Messages as a chat template writes them, up to where an answer begins.

    Args:
        template: of the model, in jinja's language.
        messages: of plain texts, lists and mappings.
        tokens: the tokenizer's special tokens, by the names that templates have for them.
        name: the model's name in the error.

    Raises:
        TemplateLimit: the template is too long, or does or makes too much.
        TemplateError: of jinja, for a template with mistakes, or one that refuses the messages.
    """
    try:
        if len(template) > LONGEST:
            raise _Over(f"it has {len(template):,} letters")
        environment = _Environment()
        compiled = environment.template_class.from_code(environment, _code(template), environment.make_globals(None))
        return compiled.render(
            messages=[*messages], tools=None, documents=None, add_generation_prompt=True, **_plain(tokens)
        )
    except _Over as over:
        raise TemplateLimit(
            f"The chat template of {name} does too much ({over}); put the one that the model's makers publish into its "
            "folder."
        ) from over


def _plain(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Special tokens as plain texts, and lists of them."""
    return {
        key: [str(each) for each in value] if isinstance(value, list | tuple) else str(value)
        for key, value in tokens.items()
    }


@lru_cache(maxsize=16)
def _code(template: str) -> CodeType:
    """The compiled template, with all that counts and measures put into it."""
    environment = _Environment()
    tree = cast(nodes.Template, _Metered().visit(environment.parse(template)))
    tree.set_environment(environment)
    return cast(CodeType, environment.compile(tree))


def _text_in(node: nodes.Node) -> int:
    """Letters of a node's fixed text."""
    return sum(len(each.data) for each in node.find_all(nodes.TemplateData))


def _of_a_block(node: nodes.Node | None) -> bool:
    """Whether a filter is one of a block's, whose text is measured as it is made."""
    while isinstance(node, nodes.Filter):
        node = node.node
    return node is None


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), [*arguments], [], None, None)


class _Metered(NodeTransformer):
    """Has a template count its steps and measure what it makes."""

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [each if isinstance(each, nodes.TemplateData) else _call("made", each) for each in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_call("taken", each) for each in node.nodes]
        return _call("made", node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        node.args = [_call("taken", each) for each in node.args]
        for each in node.kwargs:
            cast(nodes.Keyword, each).value = _call("taken", cast(nodes.Keyword, each).value)
        if _of_a_block(node):
            return node
        node.node = _call("taken", cast(nodes.Expr, node.node))
        return _call("made", node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _call("made", node) if isinstance(node.arg, nodes.Slice) else node

    def _container(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _call("made", node)

    visit_List = visit_Tuple = visit_Dict = _container

    def _body(self, node: Any) -> nodes.Node:
        text = _text_in(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("passed", nodes.Const(text))))
        return node

    visit_For = visit_Macro = visit_CallBlock = visit_FilterBlock = visit_AssignBlock = visit_Block = _body


class _Generation(Extension):
    """The tag ``generation``, which marks an answer for training: what is in it stays as it is."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own)

    def parse(self, parser: Parser) -> nodes.Node:
        """The marked part, written by a call of its own as transformers' is."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Any) -> str:
        return caller()


class _OwnNames(Namespace):
    """A namespace without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _require_own(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_own(name)
        super().__setitem__(name, value)


def _require_own(name: str) -> None:
    if str(name).startswith("_"):
        raise TemplateError(f"a namespace takes no name that begins with an underscore, as {name} does")


class _Environment(ImmutableSandboxedEnvironment):
    """jinja's sandbox, of one rendering: it has its meter."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension], optimized=False
        )
        self._steps = self._letters = 0
        self._end = time.thread_time() + MOST_SECONDS
        growing = {
            "batch": self._batch,
            "center": self._center,
            "format": self._format,
            "indent": self._indent,
            "join": self._join,
            "replace": self._replace,
            "round": self._round,
            "sum": self._sum,
            "tojson": self._tojson,
        }
        self._stock = {name: self.filters[name] for name in growing}
        self.filters = {name: each for name, each in self.filters.items() if name in FILTERS} | growing
        self.globals = {
            "range": self.globals["range"],
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "namespace": _OwnNames,
            "dict": lambda *pairs, **entries: dict(*pairs, **entries),
            "raise_exception": _refuse,
            "strftime_now": self._now,
        }

    def passed(self, text: int) -> str:
        """Count a pass of a loop or a macro that writes ``text`` letters of its own."""
        self._step()
        self._spend(text)
        return ""

    def taken(self, value: Any) -> Any:
        """A value that something is made of, refused if it is too large: many names may stand for one part of it."""
        self._require(_size(value))
        return value

    def made(self, value: Any) -> Any:
        """A value that an expression has made, counted."""
        self._step()
        self._spend(_size(value))
        return value

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise _Over(f"over {MOST_STEPS:,} steps")
        if time.thread_time() > self._end:
            raise _Over(f"over {MOST_SECONDS:g} seconds")

    def _require(self, letters: int) -> None:
        if letters > MOST_LETTERS:
            raise _Over(f"over {MOST_LETTERS:,} letters")

    def _spend(self, letters: int) -> None:
        self._letters += letters
        self._require(self._letters)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may see an attribute; of plain values' methods those that are listed."""
        listed = next((names for kind, names in METHODS.items() if isinstance(obj, kind)), None)
        return super().is_safe_attribute(obj, attr, value) and (listed is None or attr in listed)

    def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call what a template calls, with its arguments and its result measured."""
        owner = getattr(function, "__self__", None)
        if owner is self and function.__name__ in ("made", "passed", "taken"):
            return function(*arguments)
        self._require(_size((arguments, named)))
        method = getattr(function, "__name__", "")
        if isinstance(owner, str):
            if method == "join" and arguments:
                arguments = (self._joined(arguments[0], len(owner)),)
            elif method == "replace" and len(arguments) > 1:
                self._require_replaced(owner, *map(str, arguments[:2]))
            elif method in ("center", "ljust", "rjust", "zfill") and arguments:
                self._require_width(arguments[0])
        result = super().call(context, function, *arguments, **named)
        return self.made(list(result) if isinstance(result, (KeysView, ValuesView, ItemsView)) else result)

    def wrap_str_format(self, value: Any) -> Any:
        """The sandbox's ``str.format``, once the size of the result is known to be within the limits."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def formatted(*arguments: Any, **named: Any) -> str:
            self._require_format(_FIELD, str(value.__self__), _size((arguments, named)))
            return wrapped(*arguments, **named)

        return update_wrapper(formatted, wrapped)

    def call_filter(self, name: str, value: Any, *rest: Any, **more: Any) -> Any:
        """Apply a filter to each of several values, counted."""
        self._step()
        return super().call_filter(name, value, *rest, **more)

    def call_test(self, name: str, value: Any, *rest: Any, **more: Any) -> Any:
        """Apply a test to each of several values, counted."""
        self._step()
        return super().call_test(name, value, *rest, **more)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Reckon, once the size of the result is known to be within the limits."""
        self._step()
        self._require(_size((left, right)))
        whole = isinstance(left, int) and isinstance(right, int)
        if operator == "*" and whole and left.bit_length() + right.bit_length() > MOST_BITS:
            raise _Over(f"a number of over {MOST_BITS:,} bits")
        if operator == "**" and whole and left.bit_length() * abs(right) > MOST_BITS:
            raise _Over(f"a number of over {MOST_BITS:,} bits")
        if operator == "*" and not whole:
            for some, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(some, (str, bytes, list, tuple)):
                    self._require(_size(some) * max(0, times))
        if operator == "%" and isinstance(left, (str, bytes)):
            self._require_format(_PERCENT, str(left), _size(right))
        return self.made(super().call_binop(context, operator, left, right))

    def _require_width(self, width: Any) -> None:
        self._spend(int(width) if isinstance(width, (int, float)) else 0)

    def _require_format(self, wide: re.Pattern[str], text: str, size: int) -> None:
        if wide.search(text.replace("%%", "")):
            raise _Over("a format of thousands of letters")
        self._require(len(text) + (text.count("%") + text.count("{")) * (size + 1))

    def _require_replaced(self, text: str, old: str, new: str) -> None:
        self._spend(len(text) + (text.count(old) * len(new)))

    def _joined(self, values: Any, gap: int) -> list[Any]:
        listed = list(values)
        self._require(_size(listed) + gap * len(listed))
        return listed

    def _batch(self, value: Any, linecount: int, fill_with: Any = None) -> Any:
        self._require_width(linecount)
        return self._stock["batch"](value, linecount, fill_with)

    def _center(self, value: str, width: int = 80) -> str:
        self._require_width(width)
        return self._stock["center"](value, width)

    def _format(self, value: str, *arguments: Any, **named: Any) -> str:
        self._require_format(_PERCENT, str(value), _size((arguments, named)))
        return self._stock["format"](value, *arguments, **named)

    def _indent(self, s: str, width: Any = 4, first: bool = False, blank: bool = False) -> str:
        each = len(width) if isinstance(width, str) else int(width)
        self._spend((str(s).count("\n") + 2) * max(0, each))
        return self._stock["indent"](s, width, first, blank)

    def _join(self, value: Any, d: str = "", attribute: Any = None) -> str:
        if attribute is not None:
            value = self._each(value, attribute)
        return str(d).join(map(str, self._joined(value, len(str(d)))))

    def _each(self, values: Any, attribute: Any) -> list[Any]:
        return [self.getitem(each, attribute) for each in values]

    def _replace(self, s: str, old: str, new: str, count: int | None = None) -> str:
        self._require_replaced(str(s), str(old), str(new))
        return str(s).replace(str(old), str(new), -1 if count is None else count)

    def _round(self, value: Any, precision: int = 0, method: Any = "common") -> Any:
        if abs(int(precision)) > 100:
            raise _Over("a number of over 100 places")
        return self._stock["round"](value, precision, method)

    def _sum(self, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
        values = iterable if attribute is None else self._each(iterable, attribute)
        if not isinstance(start, (int, float)):
            raise TemplateError("sum adds numbers")
        return sum(values, start)

    def _tojson(
        self, x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        gap = len(indent) if isinstance(indent, str) else int(indent or 0)
        self._require(_size(x) * (1 + 16 * max(0, gap) + sum(map(len, separators or ()))))
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def _now(self, format: str) -> str:
        self._require_format(_PERCENT, format, 100)
        return datetime.now().strftime(format)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _size(value: Any, known: dict[int, int] | None = None) -> int:
    """Letters and entries of a value as it would be written out: a part that is in it twice counts twice."""
    if isinstance(value, (str, bytes)):
        return len(value)
    known = {} if known is None else known
    if isinstance(value, Namespace):
        parts: Any = object.__getattribute__(value, "_Namespace__attrs").values()
    elif isinstance(value, Mapping):
        parts = (part for pair in value.items() for part in pair)
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    elif isinstance(value, int):
        return value.bit_length() // 3
    else:
        return 1
    if id(value) not in known:
        known[id(value)] = 1  # where it holds itself
        known[id(value)] = 1 + sum(1 + _size(part, known) for part in parts)
    return known[id(value)]
