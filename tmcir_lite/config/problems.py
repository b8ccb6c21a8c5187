"""What is wrong with a profile, in one line a problem."""

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from tmcir_lite.config.sections import Config, Section


def explain_problem(problem: dict[str, Any]) -> str:
    """One line for one of pydantic's problems."""
    kind, value = problem["type"], problem["input"]
    if kind == "missing":
        return "missing; `python -m tmcir_lite config` explains every key"
    if kind == "extra_forbidden":
        *parents, unknown = problem["loc"]
        known = _keys_at(parents)
        close = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean {dotted([*parents, *close])}?" if close else f"known: {', '.join(known)}"
        return f"unknown key; {hint}"
    if kind == "model_type":
        return f"{value!r}: expected a section of `key: value` lines"
    if kind == "float_type" and (number := _yaml_number(value)):
        return f"{value!r} is text to YAML, expected a number: write {number}"
    if kind == "string_type":
        return (
            f"{value} is a {type(value).__name__} to YAML, expected text: write it in quotes of its own, '\"{value}\"'"
        )
    if kind == "string_pattern_mismatch":
        return f"{value!r}: expected letters, digits, dot, dash and underscore only, a letter or digit first"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    return f"{value!r} ({type(value).__name__}): {problem['msg'].replace('Input should', 'should')}"


def _keys_at(loc: Sequence[str | int]) -> list[str]:
    """The keys that the section at `loc` has."""
    model = Config
    for part in loc:
        if isinstance(part, str):  # an int is a place in a list, whose field was named before it
            annotation = model.model_fields[part].annotation
            types = [kind for kind in (*get_args(annotation), annotation) if isinstance(kind, type)]
            model = next(kind for kind in types if issubclass(kind, Section))
    return list(model.model_fields)


def _yaml_number(value: Any) -> str | None:
    """How to write in YAML the number that a text such as "1e-5" means; None if it means none."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", str(value).strip(), re.IGNORECASE):
        return None
    mantissa, _, exponent = value.strip().lower().partition("e")
    mantissa += "" if "." in mantissa else ".0"
    return f"{mantissa}e{int(exponent):+d}" if exponent else mantissa


def dotted(loc: Sequence[str | int]) -> str:
    """A place in a profile as its keys are written: section.key."""
    return ".".join(str(part) for part in loc)


def overlap(one: str, other: str) -> bool:
    """Whether one dotted key is the other or lies inside it."""
    shorter, longer = sorted((one, other), key=len)
    return f"{longer}.".startswith(f"{shorter}.")
