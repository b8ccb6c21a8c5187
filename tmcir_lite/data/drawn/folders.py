"""Drawn worlds as folders: made whole or not at all, pictures drawn in processes, records of CIRR's layout."""

import dataclasses
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tmcir_lite.io.files import InputError, read_json, write_json
from tmcir_lite.io.progress import Progress

IMG_SET = 6  # CIRR: near-duplicates that form one img_set


def build_folder(world: Any, root: Path, write: Callable[[Path], dict[Path, Any]], what: str, key: str) -> None:
    """Makes a world's folder, or does nothing if it is there already; an unfinished one is made anew.

    A folder that holds anything else is a user's, and stays as it is.

    Args:
        world: its parameters, a dataclass, kept in `world.json`.
        write: writes all but the pictures below the folder it is given; returns the file of each picture.
        what: what the folder holds, for messages.
        key: where the user says which folder it is.

    Raises:
        InputError: the folder holds a world with other parameters, or something else.
    """
    root, mark = Path(root), Path(root) / "world.json"
    if mark.is_file():
        found = read_json(mark)
        if found != dataclasses.asdict(world):
            raise InputError(f"{root} holds {what} made with other parameters (see {mark}): "
                             f"remove the folder or give another {key}")  # fmt: skip
        return
    if root.exists() and not (root.is_dir() and next(root.iterdir(), None) is None):
        raise InputError(f"{root} is there and not {what}: give {key} a folder that is empty or not there yet")
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    draw_all(write(partial))
    write_json(partial / "world.json", dataclasses.asdict(world))
    if root.is_dir():
        root.rmdir()
    partial.rename(root)


def draw_all(pictures: dict[Path, Any]) -> None:
    """Draws every picture (an object with `draw()`) into its file, in as many processes as there are processors."""
    for folder in {path.parent for path in pictures}:
        folder.mkdir(parents=True, exist_ok=True)
    progress = Progress("drawing", len(pictures))
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(_save, pictures.items(), chunksize=256):
            progress.advance()


def _save(job: tuple[Path, Any]) -> None:
    path, picture = job
    picture.draw().save(path, compress_level=1)


def append_lines(path: Path, records: Iterable[dict]) -> None:
    """Adds records to a file of JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def cirr_record(pairid: int, group: int, members: list[str], reference: int, target: int, caption: str) -> dict:
    """A query as CIRR writes it; reference and target are members by number."""
    return {
        "pairid": pairid,
        "reference": members[reference],
        "target_hard": members[target],
        "target_soft": {members[target]: 1.0},
        "caption": caption,
        "img_set": {"id": group, "members": members, "reference_rank": reference, "target_rank": target},
    }


def member_names(prefix: str, group: int) -> list[str]:
    """Image names of one img_set."""
    return [f"{prefix}-{group}-{k % 2}-img{k // 2}" for k in range(IMG_SET)]
