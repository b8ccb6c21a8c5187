"""Reading YAML: one clear line for whatever is wrong with a file."""

from pathlib import Path
from typing import Any

import yaml

from tmcir_lite.io.files import ROOT, InputError

PROFILES = ROOT / "notebooks" / "params"
EDITORS = PROFILES / "editors.yaml"


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's own loader silently keeps the last of two equal keys; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, like: Path = PROFILES / "lite.yaml") -> dict[str, Any]:
    """The keys and values of a YAML file; `like` is one to start from.

    Raises:
        InputError: it is missing, no YAML, or no `key: value` lines.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InputError(f"{path}, line {mark.line + 1}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:  # ValueError: no text, or no such date
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no `key: value` lines; start from {like}")
    return values
