"""Errors a user can act on, and writing files so that a final name never holds half a file."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows, where what a kill leaves stays
    fcntl = None

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds `notebooks/` and `data/`; relative paths in a configuration start here."""


class InputError(ValueError):
    """Something the user gave (file, key, value) cannot be used; the message names it and says what to do."""


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one is taken from the repository's root, not from the caller's folder."""
    return Path(os.path.normpath(ROOT / Path(path).expanduser()))


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path near `path`; renames it to `path` if the block succeeds, else deletes it.

    It keeps the suffix, so that writers that go by it (pictures, safetensors) work, and lies in a folder of its own,
    since some leave files beside it when they are killed. What a killed one left goes when the next begins to write.

    Raises:
        InputError: nothing can be written there, or the disk is full.
    """
    path = Path(path)
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.absolute())
        folder, lock = _own_folder(path.parent)
    temporary = folder / f"{path.stem[:40]}{path.suffix}"
    try:
        try:
            yield temporary
        except Exception as error:  # safetensors has an error of its own, which quotes the system's
            if reason := full_disk(error, path):
                raise InputError(reason) from None
            raise
        with _writable(path):
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


_UNFINISHED = ".unfinished-"


def _own_folder(parent: Path) -> tuple[Path, int | None]:
    """A new folder, and the handle whose lock says, as long as this process lives, that it is in use."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=_UNFINISHED))
        if fcntl is None:
            return folder, None
        with contextlib.suppress(FileNotFoundError):  # swept away before it had its lock
            handle = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_SH)
            if folder.exists():
                return folder, handle
            os.close(handle)


@functools.cache
def _sweep(parent: Path) -> None:
    """Removes the folders of no living process; once a process and parent, which may hold many files."""
    for folder in parent.glob(f"{_UNFINISHED}*") if fcntl else ():
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(handle)


def full_disk(error: Exception, path: Path) -> str | None:
    """What to say of an error in writing to `path` for want of space; None: it is another error."""
    number = next((n for n in _FULL if f"os error {n})" in str(error)), getattr(error, "errno", None))
    if number not in _FULL:
        return None
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free / 1e6
    return f"{path}: cannot be written: {os.strerror(number)} ({free:.0f} MB are free in {folder}); make room"


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if hasattr(errno, "EDQUOT") else (errno.ENOSPC, errno.EFBIG)


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Tells in one line why `path` cannot be made."""
    try:
        yield
    except OSError as error:
        reason = full_disk(error, path)
        raise InputError(reason or f"{path}: cannot be written: {error.strerror}; give another place") from None


def new_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped array of zeros in a new .npy file, all of whose bytes are on the disk from the start.

    A mapped file is sparse by itself, and to write where no space is left ends the process without a word.

    Raises:
        InputError: the disk has not that much space.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    start, size = array.offset, path.stat().st_size
    try:
        with open(path, "r+b") as file:
            _allocate(file, start, size)
    except OSError as error:
        del array
        path.write_bytes(b"")  # gives back what was had
        if not full_disk(error, path):
            raise
        folder = path.parent.parent if path.parent.name.startswith(_UNFINISHED) else path.parent
        free = shutil.disk_usage(folder).free
        lack = max(0, size - free) / 1e6
        raise InputError(f"{folder}: no room for {size / 1e6:.0f} MB: {free / 1e6:.0f} MB are free, {lack:.0f} MB "
                         "are missing; make room or give another place") from None  # fmt: skip
    return array


def _allocate(file, start: int, size: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size)
        return
    except AttributeError:
        pass  # macOS and Windows have none
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that has none
            raise
    file.seek(start)
    for done in range(start, size, len(_ZEROS)):
        file.write(_ZEROS[: size - done])


_ZEROS = bytes(1 << 20)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` under a temporary name, then renames."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")  # the same file on every system


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
    except (ValueError, RecursionError) as error:  # of JSON, or of its encoding; brackets without end
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
    except (ValueError, RecursionError):
        return None
    return "it is JSON Lines, one value a line: make one JSON list of them" if any(more) else "it is JSON"


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


HASHES = "sha256.json"


def check_hashes(folder: Path) -> None:
    """Compares a model folder with its `sha256.json`; a folder without one is not checked.

    Raises:
        InputError: a file is missing or differs.
    """
    folder = Path(folder)
    if not (folder / HASHES).is_file():
        return
    listed = read_json(folder / HASHES)
    if not isinstance(listed, dict):
        raise InputError(f"{folder / HASHES}: not an object of names and digests; restore it (git checkout)")
    for name, digest in listed.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: missing, though {HASHES} lists it; restore it (git checkout) or retrain it")
        if sha256(path) != digest:
            raise InputError(f"{path}: its SHA-256 differs from {HASHES}; restore it (git checkout) or retrain it")
