"""The parameters as documents: JSON Schema for editors, and a reference page, both from the texts below the fields."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from stages.typed import dataclass_in

WIDTH = 118
DRAFT = "https://json-schema.org/draft/2020-12/schema"
ENCODING = "extract.encoding"  # may be varied beside the keys of section train
FILE = "params"  # of a variant: the params file whose pass and head it takes
RULE = "A key that is no parameter is refused, and the nearest one named."


@cache
def described(cls: type) -> dict[str, str]:
    """Field -> the text below it, of a dataclass and those it extends."""
    found: dict[str, str] = {}
    for base in reversed([each for each in cls.__mro__ if is_dataclass(each)]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def schema(cls: type) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a params file of class ``cls``, every key with its text."""
    from pydantic import TypeAdapter

    found = TypeAdapter(cls).json_schema()
    definitions: dict[str, Any] = found.get("$defs", {})
    for each in _classes(cls):
        place = found if each is cls else definitions[each.__name__]
        place["additionalProperties"] = False
        for name, text in described(each).items():
            place["properties"][name]["description"] = text
    return {"$schema": DRAFT, **found}


def page(cls: type) -> str:
    """Every key of class ``cls`` as Markdown: a list for each section and each part of one."""
    lines = ["# Parameters", "", "Every key of a params file, made from the code by `diffps params`.", RULE, ""]
    for prefix, each in _sections(cls, ""):
        lines += [f"## {prefix or 'Sections'}", "", *textwrap.wrap(" ".join((each.__doc__ or "").split()), WIDTH), ""]
        hints, texts = get_type_hints(each), described(each)
        for field in fields(each):
            default = "" if field.default is MISSING else f", default `{json.dumps(_plain(field.default))}`"
            text = f"`{field.name}` ({_type_text(hints[field.name])}{default}): {texts[field.name].replace('``', '`')}"
            lines += textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def sweep_schema(cls: type) -> dict[str, Any]:
    """JSON Schema of a sweep file over a section ``train`` of class ``cls``: which keys may be varied, and how."""
    sections = [key for key, _ in _sections(cls, "") if key]
    leaves = [f"{key}.{name}" if key else name for key, each in _sections(cls, "") for name in described(each)]
    varied = {"type": "object", "propertyNames": {"enum": sorted({*leaves, *sections, ENCODING})}}
    variant = {"type": "object", "propertyNames": {"enum": sorted({*leaves, *sections, ENCODING, FILE})}}
    return {
        "$schema": DRAFT,
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "base": {**varied, "description": "Changes of every variant."},
            "variants": {"type": "object", "additionalProperties": {"anyOf": [variant, {"type": "null"}]}},
            "grid": {**varied, "additionalProperties": {"type": "array", "minItems": 1}},
        },
    }


def _classes(cls: type) -> Iterator[type]:
    yield cls
    for hint in get_type_hints(cls).values():
        inner = dataclass_in(hint)
        if inner is not None:
            yield from _classes(inner)


def _sections(cls: type, key: str) -> Iterator[tuple[str, type]]:
    yield key, cls
    for name, hint in get_type_hints(cls).items():
        inner = dataclass_in(hint)
        if inner is not None:
            yield from _sections(inner, f"{key}.{name}" if key else name)


def _type_text(hint: Any) -> str:
    """A type for people: "number", "one of a, b", "list of text"."""
    arguments = get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if is_dataclass(hint):
        return "section"
    if getattr(hint, "__origin__", None) is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return f"list of {_type_text(arguments[0])}"
        return f"list of {len(arguments)}: {', '.join(dict.fromkeys(map(_type_text, arguments)))}"
    if all(isinstance(each, str) for each in arguments):
        return "one of " + ", ".join(f"`{each}`" for each in arguments)
    return " or ".join(map(_type_text, arguments))


_WORDS: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
