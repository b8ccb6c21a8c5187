"""The model card beside each shipped weight folder."""

import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from tmcir_lite.io.files import HASHES, sha256, write_json, write_text


def write_card(folder: Path, title: str, facts: dict[str, Any], tables: dict[str, str]) -> None:
    """Writes `README.md` (the card) and `sha256.json` (of every weight and tokenizer file) into a model folder."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".safetensors", ".json", ".txt"} and p.name != HASHES)
    hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    write_json(folder / HASHES, hashes)
    lines = [f"# {title}", "", *(f"- **{name}**: {value}" for name, value in facts.items())]
    for heading, table in tables.items():
        lines += ["", f"## {heading}", "", table]
    lines += ["", "## Files", "", "| file | bytes | sha256 |", "| --- | --- | --- |"]
    lines += [f"| {name} | {(folder / name).stat().st_size} | `{digest}` |" for name, digest in hashes.items()]
    write_text(folder / "README.md", "\n".join(lines) + "\n")


def read_facts(folder: Path) -> dict[str, str]:
    """The facts of a card that `write_card` wrote."""
    return dict(
        re.findall(r"^- \*\*(.+?)\*\*: (.*)$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    )


def publish_folder(
    made: Path, out: Path, work: Path, title: str, facts: dict[str, Any], tables: dict[str, str]
) -> None:
    """Copies a finished model folder to `out`, with the training log of `work` and a card; replaces what was there."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(made, partial)
    shutil.copy(work / "history.csv", partial / "training_log.csv")
    write_card(partial, title, facts, tables)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def command_line(module: str) -> str:
    """The command that is running, as a person would type it."""
    return " ".join([f"python -m tmcir_lite.pretrain.{module}", *sys.argv[1:]])


def device_name(device: str) -> str:
    """The GPU's name, or the processor's with the number of threads used."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.processor() or platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores)"
