"""Profiles: a YAML file plus overrides becomes one checked configuration."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tmcir_lite.config.problems import dotted, explain_problem, overlap
from tmcir_lite.config.sections import Config
from tmcir_lite.config.yaml_files import EDITORS, PROFILES, read_yaml
from tmcir_lite.io.files import InputError, resolve


def load_config(profile: str | Path, overrides: Sequence[str] | str | None = ()) -> Config:
    """Reads a profile, applies overrides, checks everything.

    Args:
        profile: a name in `notebooks/params` ("lite"), or the path of a YAML file (ending in .yaml or .yml).
        overrides: "section.key=value" strings, or one string (see `as_overrides`); the value is read as YAML, but that
            no comment begins in it; a later one wins. "editor=NAME" takes all of the section from `editors.yaml`.

    Raises:
        InputError: unknown profile, unreadable YAML, unknown or missing key, wrong type, value out of range.
            One line a problem, each with the key's full dotted name.
    """
    path = _profile_path(profile)
    values = read_yaml(path)
    _look_up_editor(values, path)
    sources = {}
    for override in as_overrides(overrides):
        sources[_apply(values, override)] = f"override {override!r}"
        _look_up_editor(values, f"override {override!r}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            key = dotted(problem["loc"])
            source = next((text for name, text in sources.items() if overlap(key, name)), path)
            lines.append(f"{source}: {key}: {explain_problem(problem)}")
        raise InputError("\n".join(lines)) from None


def as_overrides(given: Sequence[str] | str | None) -> list[str]:
    """Overrides as a list, from what a notebook's parameter may hold: a list, nothing, or a string.

    In a string they stand one after the other, "seed=1 name=x", or as a YAML list, "[seed=1, name=x]".

    Raises:
        InputError: it is something else.
    """
    if isinstance(given, str):
        text = given.strip()
        given = re.split(r"[\s,;]+(?=[\w.]+=)", text) if text else []
        if text.startswith("["):
            with contextlib.suppress(yaml.YAMLError):
                given = yaml.safe_load(text)
    if not isinstance(given or [], (list, tuple)) or not all(isinstance(each, str) for each in given or []):
        raise InputError(f'overrides: {given!r}: expected a list of "section.key=value" texts, such as ["seed=1"]')
    return list(given or [])


def _look_up_editor(values: dict[str, Any], source: object) -> None:
    """Where `editor` is a name, puts in its place the section that `editors.yaml` has under this name."""
    name = values.get("editor")
    if isinstance(name, str):
        table = read_yaml(EDITORS)
        if name not in table:
            raise InputError(f"{source}: editor: {name!r} is unknown; {EDITORS} has {', '.join(table)}")
        values["editor"] = table[name]


def profile_names() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(file.stem for file in PROFILES.glob("*.yaml") if file != EDITORS)


def _profile_path(profile: str | Path) -> Path:
    if not isinstance(profile, (str, Path)):
        raise InputError(f"profile: {profile!r}: expected a name in {PROFILES}, or the path of a .yaml file")
    if Path(profile).suffix in (".yaml", ".yml"):
        return resolve(profile)
    path = PROFILES / f"{profile}.yaml"
    if not path.is_file() or path == EDITORS:
        known = ", ".join(profile_names())
        raise InputError(f"profile {str(profile)!r}: unknown; known: {known}; or give the path of a .yaml file")
    return path


def _apply(values: dict[str, Any], override: str) -> str:
    """Sets one "a.b=value" in the nested `values`; returns the key. Whether the key exists is checked later."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(f"override {override!r}: write it as section.key=value")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        comment = "#" in text[node.end_mark.index if node else 0 :]  # of no use here, and a path may have one
        value = text.strip() if comment else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"override {override!r}: {text!r} is not a YAML value") from None
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"override {override!r}: {section} is {inner!r} in the profile, not a section")
    inner[last] = value
    return key
