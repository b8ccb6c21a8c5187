"""Errors a user can act on, and writing files so that a final name never holds half a file."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `notebooks/` and `data/`; relative paths in a configuration start here."""


class InputError(ValueError):
    """Something the user gave (file, key, value) cannot be used; the message names it and says what to do."""


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one is taken from the repository's root, not from the caller's folder."""
    return Path(os.path.normpath(ROOT / Path(path).expanduser()))


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` if the block succeeds, else deletes it.

    The temporary name keeps the suffix, so that writers that go by it (pictures, safetensors) work.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` under a temporary name, then renames."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON with a final newline, under a temporary name, then renames."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads JSON, with or without a byte order mark.

    Raises:
        InputError: the file is absent, cannot be read or is not whole, valid JSON; it says what it is, where it can.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = taken_for(path) or f"{error}; it may be truncated: fetch or write it again"
        raise InputError(f"{path}: not valid JSON ({reason})") from None


_OTHERS = {
    b"version https://git-lfs": "it is a git-LFS pointer: `git lfs pull` fetches what it stands for",
    b"<": "it is HTML or XML, such as a server's error page: download the file itself",
    b"\x1f\x8b": "it is a gzip archive: unpack it",
    b"PK\x03\x04": "it is a zip archive: unpack it",
}
"""What downloads often leave under a file's name: how it begins, and what to say."""


def taken_for(path: str | Path) -> str | None:
    """What a file is that could not be read as what its name says, and what to do; None where that does not show."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return "it is empty: fetch it again"
    for beginning, what in _OTHERS.items():
        if start.startswith(beginning):
            return what
    line, *more = start.splitlines()
    try:
        json.loads(line)
    except ValueError:
        return None
    return "it is JSON Lines, one value a line: make one JSON list of them" if any(more) else "it is JSON"


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
