"""The folder in which a run leaves everything: how it is started, gone on with, and what its results have to name."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import yaml

from tmcir_lite.config import Config, pick_device, read_yaml
from tmcir_lite.files import ROOT, InputError, write_json, write_text

PACKAGES = ("torch", "open_clip_torch", "diffusers", "transformers", "accelerate")


def start_run(cfg: Config) -> Path:
    """Makes the run's folder with `config.yaml` and `environment.json`; returns the folder.

    Starting again with the same configuration is how a run goes on; `environment.json` then tells the latest start.

    Raises:
        InputError: the folder holds a run with another configuration.
    """
    path = cfg.run_dir / "config.yaml"
    if path.exists():
        there, now = _flatten(read_yaml(path)), _flatten(cfg.model_dump())
        differing = [
            f"{key} ({there.get(key, 'absent')} there, {now.get(key, 'absent')} now)"
            for key in {**there, **now}
            if (key in there) != (key in now) or there.get(key) != now.get(key)
        ]
        if differing:
            raise InputError(
                f"{path}: this run was started with another configuration: {', '.join(differing)};"
                f" choose another name= or remove {cfg.run_dir}"
            )
    else:
        write_text(path, yaml.safe_dump(cfg.model_dump(), sort_keys=False))
    write_json(cfg.run_dir / "environment.json", environment(cfg))
    return cfg.run_dir


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
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def git_state() -> tuple[str | None, bool | None]:
    """Commit and whether files differ from it; (None, None) where the package does not run from its own checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:  # installed inside someone else's checkout
            return None, None
        # `make notebooks` rewrites these as it goes: they show results and decide none.
        shown = (":!notebooks/*.ipynb", ":!data/results")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".", *shown))
    except (OSError, subprocess.CalledProcessError):
        return None, None
