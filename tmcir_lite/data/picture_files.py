"""The picture files of a dataset: found wherever a mirror keeps them, decoded once, and what is missing or broken."""

import contextlib
import filecmp
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tmcir_lite.data.pictures import Reader, load_image, picture_suffixes
from tmcir_lite.io.files import InputError, write_text


class PictureFolder:
    """All pictures below a folder, listed once: asking the disk for every name a file could have would be slow."""

    def __init__(self, folder: Path):
        self.folder, self._others = folder, []
        self._at: dict[str, list[Path]] = {}
        self._named: dict[str, list[Path]] = {}
        known = picture_suffixes()
        for path, hidden in files_below(folder):
            if hidden:
                continue
            if path.suffix.lower() in known:
                self._at.setdefault(str(path.with_suffix("")), []).append(path)
                self._named.setdefault(path.stem, []).append(path)
            else:
                self._others.append(path)

    def find(self, places: Mapping[str, list[str]]) -> tuple[dict[str, Path], dict[str, str]]:
        """(image name -> its file, image name -> why there is none), each in the order of `places`.

        Args:
            places: image name -> paths below the folder at which it may lie; those that come first are preferred. The
                suffix does not count, and where none holds it, it may lie in any sub-folder.
        """
        located = {name: self._locate(candidates) for name, candidates in places.items()}
        problems = _problems([path for path in located.values() if isinstance(path, Path)])
        files, missing = {}, {}
        for name, found in located.items():
            found = problems.get(found, found)
            (missing if isinstance(found, str) else files)[name] = found
        return files, missing

    def missing_report(
        self, root: Path, split: str, places: Mapping[str, list[str]], missing: Mapping[str, str], nothing_left: str
    ) -> str:
        """What to say of missing pictures; written in full beside them, where that is allowed.

        Args:
            root: the dataset's folder, which receives `missing.<split>.txt`.
            places, missing: what `find` took and gave.
            nothing_left: where leaving out what needs them would not help, why; else empty.
        """
        lines = [f"{name}: {reason}" for name, reason in missing.items()]
        report = root / f"missing.{split}.txt"
        shown = 10
        try:
            write_text(report, "\n".join(lines) + "\n")
            where = f"all are listed in {report}"
        except InputError:  # a dataset's folder is often read-only
            shown, where = len(lines), "all are listed here"
        fetch = "fetch them (data/README.md)"
        skip = "or write data.skip_missing: true to leave out what needs them"
        advice = f"{nothing_left}; {fetch}" if nothing_left else f"{fetch}, {skip}"
        first = self.folder / places[next(iter(missing))][0]
        count = f"{len(missing)} of the {len(places)} pictures that {split} needs"
        return "\n".join(
            [
                f"{root}: {count} are missing or broken ({where}); {advice}",
                f"looked for such as {first}, with any suffix and in any sub-folder; {self._holds()}",
                *lines[:shown],
            ]
        )

    def _holds(self) -> str:
        """How many pictures there are, and the path of one of them."""
        first = next((paths[0] for paths in self._at.values()), None)
        if first:
            return f"{self.folder} holds {sum(map(len, self._at.values()))} pictures, such as {first}"
        return f"{self.folder} holds no pictures" + (f", but such as {self._others[0]}" if self._others else "")

    def _locate(self, places: list[str]) -> Path | str:
        stems = [str((self.folder / place).with_suffix("")) for place in places]
        there = next((self._at[stem] for stem in stems if stem in self._at), None)
        if there and len(there) > 1:
            return f"{there[0]} and {there[1]} are both there; remove the one that is not meant"
        there = there or self._named.get(Path(stems[0]).name)
        if not there:
            return f"no such file: {self.folder / places[0]}"
        # In sub-folders by category a picture of two categories lies twice, and that is as good as once.
        other = next((path for path in there[1:] if not filecmp.cmp(there[0], path, shallow=False)), None)
        if other:
            return f"{there[0]} and {other} differ; remove the one that is not meant"
        if not there[0].is_file():
            return f"{there[0]}: not a file, or a link that leads nowhere"
        return there[0]


def files_below(folder: Path) -> Iterator[tuple[Path, bool]]:
    """All files in a fixed order, and whether they or a folder on the way to them are hidden (`._x.png`).

    Links to folders are followed, and each folder is visited once. One that may not be read is told on stderr.
    """
    seen = set()
    for base, folders, files in os.walk(folder, onerror=_unread, followlinks=True):
        identity = os.path.realpath(base)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders.sort()
        within = any(part.startswith(".") for part in Path(base).relative_to(folder).parts)
        yield from ((Path(base, name), within or name.startswith(".")) for name in sorted(files))


def _unread(error: OSError) -> None:
    print(f"{error.filename}: left out, cannot be read ({error.strerror})", file=sys.stderr)


_decoded: set[str] = set()
"""Of each file that could be decoded: size, time of the last change, path."""


@contextlib.contextmanager
def remembering(memory: Path) -> Iterator[None]:
    """Within, a picture that could be decoded is not decoded again, nor in a later process that names the same file.

    Decoding 80,000 photos takes minutes, and each notebook is a process of its own. What size or time changed of is
    decoded anew. Several processes may remember in one file; the last one's word stands.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):  # absent, or damaged: then all is decoded once more
        _decoded.update(memory.read_text(encoding="utf-8").splitlines())
    known = len(_decoded)
    try:
        yield
    finally:
        if len(_decoded) > known:
            write_text(memory, "\n".join(sorted(_decoded)) + "\n")


def _problems(paths: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with those benchmark pictures that cannot be decoded; the others are decoded once (`_decoded`)."""
    stamps = {}
    for path in paths:
        status = path.stat()
        stamps[path] = f"{status.st_size} {status.st_mtime_ns} {path}"
    new = [path for path, stamp in stamps.items() if stamp not in _decoded]
    with ThreadPoolExecutor() as pool:
        found = dict(zip(new, pool.map(lambda path: problem(path, load_image), new), strict=True))
    _decoded.update(stamps[path] for path in new if found[path] is None)
    return {path: reason for path, reason in found.items() if reason}


def problem(path: Path, read: Reader) -> str | None:
    """What is wrong with a picture, as a reader of `pictures` says it; None if it can be decoded."""
    try:
        read(path)
    except InputError as error:
        return str(error)
    return None
