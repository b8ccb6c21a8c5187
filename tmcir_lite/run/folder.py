"""The folder in which a run leaves everything: how it is started, gone on with, and what its results have to name."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import yaml

from tmcir_lite.config import WITHOUT_EFFECT, Config, read_yaml
from tmcir_lite.io.files import ROOT, InputError, read_json, resolve, write_json, write_text
from tmcir_lite.io.processes import pick_device

PACKAGES = ("torch", "open_clip_torch", "diffusers", "transformers", "accelerate")


def start_run(cfg: Config) -> Path:
    """Makes the run's folder with `config.yaml` and `environment.json`; returns the folder.

    Starting again is how a run goes on. Keys that change no result (`config.WITHOUT_EFFECT`) may then be others, and
    datasets and models may lie elsewhere if they are the same: `inputs.json` tells what they were. `config.yaml` stays
    that of the first start; `environment.json` tells the latest start, and what differs in it.

    Raises:
        InputError: the folder holds a run with another configuration, dataset or model.
    """
    path = cfg.run_dir / "config.yaml"
    if not path.exists():
        write_text(path, yaml.safe_dump(cfg.model_dump(), sort_keys=False))
    there, now = _flatten(read_yaml(path)), _flatten(cfg.model_dump())
    other = {
        key: f"{there.get(key, 'absent')} there, {now.get(key, 'absent')} now"
        for key in {**there, **now}
        if (key in there) != (key in now) or there.get(key) != now.get(key)
    }
    same = _check_inputs(cfg)
    refused = [key for key in other if key not in same and not any(fnmatchcase(key, free) for free in WITHOUT_EFFECT)]
    if refused:
        raise InputError(
            f"{path}: this run was started with another configuration: "
            f"{', '.join(f'{key} ({other[key]})' for key in refused)}; choose another name= or remove {cfg.run_dir}"
        )
    write_json(cfg.run_dir / "environment.json", environment(cfg) | {"unlike config.yaml": other})
    return cfg.run_dir


def _check_inputs(cfg: Config) -> set[str]:
    """Keeps what marks each dataset and model in `inputs.json`; returns the keys of those that are as they were.

    A dataset is marked by its annotation, a model by the ends of its weight files. What is not there (yet) has no mark.
    """
    path, found = cfg.run_dir / "inputs.json", {}
    places = {"data.root": cfg.data.root}
    places |= {f"data.also_evaluate.{n}.root": other.root for n, other in enumerate(cfg.data.also_evaluate)}
    for key, root in places.items():
        found[key] = _mark(resolve(root), "captions/*.json", "image_splits/*.json")
    models = {"backbone.name": cfg.backbone.name.removeprefix("local-dir:"),
              "backbone.pretrained": cfg.backbone.pretrained, "editor.model": cfg.editor.model}  # fmt: skip
    for key, place in models.items():
        found[key] = _mark(resolve(place), "**/*.safetensors") if place else None
    kept = read_json(path) if path.is_file() else {}
    if not isinstance(kept, dict):
        raise InputError(f"{path}: not what this run wrote; remove it if datasets and models are what they were")
    for key, mark in found.items():
        if mark and kept.get(key, mark) != mark:
            raise InputError(f"{cfg.run_dir}: {key} now holds something else than when this run was started; "
                             "choose another name= or give the former one")  # fmt: skip
    marks = {**kept, **{key: mark for key, mark in found.items() if mark}}
    if marks != kept:
        write_json(path, marks)
    return {key for key, mark in found.items() if mark and kept.get(key) == mark}


def _mark(place: Path, *patterns: str) -> str | None:
    """A digest of the files' names, sizes, and first and last MiB; None where there are none."""
    there = [place] if place.is_file() else sorted({path for pattern in patterns for path in place.glob(pattern)})
    files, digest = [path for path in there if path.is_file()], hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            size, first = path.stat().st_size, file.read(1 << 20)
            file.seek(max(0, size - (1 << 20)))
            digest.update(f"{path.name} {size} ".encode() + first + file.read())
    return digest.hexdigest() if files else None


def environment(cfg: Config) -> dict[str, Any]:
    """What a result has to name beside its configuration: versions, machine, commit, seed, time (UTC)."""
    device = pick_device(cfg.device)
    commit, dirty = git_state()
    return {
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_count": os.cpu_count(),
        "commit": commit,
        "dirty": dirty,
        "seed": cfg.seed,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit_of(facts: Mapping[str, Any]) -> str:
    """The commit in what `environment` gives, and whether files differed from it, in words."""
    return f"{facts['commit']}{' with local changes' if facts['dirty'] else ''}"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = dict(enumerate(value))
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def git_state() -> tuple[str | None, bool | None]:
    """Commit and whether files differ from it; (None, None) where the package does not run from its own checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True)
        return os.fsdecode(done.stdout).strip()  # as Python decodes the paths it is compared with

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:  # installed inside someone else's checkout
            return None, None
        # `make notebooks` rewrites these as it goes: they show results and decide none.
        shown = (":!notebooks/*.ipynb", ":!data/results", ":!data/models/trained")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".", *shown))
    except (OSError, UnicodeError, subprocess.CalledProcessError):
        return None, None
