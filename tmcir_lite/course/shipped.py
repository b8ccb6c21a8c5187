"""Trained models of a finished run, small enough to be shipped with the repository; and the run made of them again.

Kept is what training changed: the difference of each weight from the encoders that the run started from (of a fusion,
which starts from nothing, the weight itself). A matrix is kept as whole numbers of one byte with a scale for each row,
a quarter of its size; what did not change takes no place.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tmcir_lite.config import Config
from tmcir_lite.io.files import HASHES, ROOT, InputError, check_hashes, read_json, resolve, sha256, write_json
from tmcir_lite.method.encoders import WEIGHTS_FILE
from tmcir_lite.pretrain.model_card import publish_folder
from tmcir_lite.run.folder import commit_of
from tmcir_lite.scale.search import finished_run

FOLDER = ROOT / "data" / "models" / "trained"
_MODELS = {"iacma": "IACMA", "atf": "TMCIR", "clip4cir": "CLIP4Cir, stage 1", "combiner": "CLIP4Cir"}
"""Folder of a run -> what its model is."""
_FACTS = ("config.yaml", "iacma/history.csv", "atf/metrics.json")  # what a run needs beside weights to be loaded
_START, _SCALE = "start.json", "/scale"


def keep_models(run: Path, out: Path | None = None) -> Path:
    """Copies what a finished run trained of TMCIR and CLIP4Cir to `out` (None: `FOLDER`), with a card; returns `out`.

    Raises:
        InputError: the run is not finished, or did not start from a folder of weights.
    """
    out, cfg = out or FOLDER, finished_run(run)
    start = _start(cfg.backbone.name)
    for name in _MODELS:
        if not (cfg.run_dir / name / "metrics.json").is_file():
            raise InputError(f"{cfg.run_dir}: no {name}/metrics.json in it; finish the run (`run --resume`) first")
    # The encoders after IACMA are in what was trained on them, unless none were trained there.
    models = [name for name in _MODELS if name != "iacma" or cfg.atf.encoders == "none"]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        for path in sorted(path for name in models for path in (cfg.run_dir / name / "model").glob("*.safetensors")):
            place = made / path.relative_to(cfg.run_dir)
            place.parent.mkdir(parents=True, exist_ok=True)
            save_file(packed(load_file(path), load_file(start) if path.name == WEIGHTS_FILE else {}), place)
        for name in _FACTS:
            (made / name).parent.mkdir(exist_ok=True)
            shutil.copy(cfg.run_dir / name, made / name)
        write_json(made / _START, {"weights": cfg.backbone.name, "sha256": sha256(start)})
        tables = {"Measured": _measured(cfg)}
        publish_folder(made, out, cfg.run_dir / "atf", "Trained lite models", _facts(cfg), tables)
    return out


def _facts(cfg: Config) -> dict[str, str]:
    ran = read_json(cfg.run_dir / "environment.json")
    world = cfg.garments and f"{cfg.garments.train} triplets of the garment world, drawn with seed {cfg.garments.seed}"
    return {
        "what": "what a run trained of TMCIR and of CLIP4Cir, as differences from the encoders that it started from; "
        "`tmcir_lite/course/shipped.py` makes a run of them again",
        "made by": f"the run `{cfg.name}`, seed {cfg.seed}, whose whole configuration is `config.yaml`; kept by "
        "`python -m tmcir_lite notebooks`",
        "data": world or cfg.data.root,
        "commit": commit_of(ran),
        "device": f"{ran['device']} ({ran['platform']})",
        "what they cannot do": "they have seen nothing but drawn garments",
    }


def _measured(cfg: Config) -> str:
    rows = ["| model | epoch | recall on held-out train, % |", "| --- | --- | --- |"]
    for name, title in _MODELS.items():
        metrics = read_json(cfg.run_dir / name / "metrics.json")
        score = next(key for key in metrics if key.startswith("heldout_"))
        rows.append(f"| {title} | {metrics['epoch']} | {score.removeprefix('heldout_')} {metrics[score]:.1f} |")
    return "\n".join(rows) + f"\n\nHeld out: {cfg.data.heldout:.0%} of train; the epochs were chosen on it."


def restore(run: Path) -> Path:
    """Makes the kept models a run's folder again, or does nothing if it is that already; returns the folder.

    It can be given wherever a finished run is asked for, such as to `search --run`.

    Raises:
        InputError: no kept models, a damaged file, or other start weights than those that they were kept from.
    """
    if not (FOLDER / HASHES).is_file():
        raise InputError(f"{FOLDER}: no trained models; restore them (git checkout), or make them: "
                         "`python -m tmcir_lite notebooks`")  # fmt: skip
    if (run / HASHES).is_file() and (run / HASHES).read_bytes() == (FOLDER / HASHES).read_bytes():
        return run
    check_hashes(FOLDER)
    kept = read_json(FOLDER / _START)
    start = _start(kept["weights"])
    if sha256(start) != kept["sha256"]:
        raise InputError(f"{start}: other weights than those that {FOLDER} was kept from; restore both (git checkout)")
    partial = run.with_name(run.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(FOLDER, partial)
    for path in partial.rglob("*.safetensors"):
        encoders = path.name == WEIGHTS_FILE
        save_file(unpacked(load_file(path), load_file(start) if encoders else {}), path)
        if encoders:
            for beside in start.parent.glob("*"):
                if beside.suffix in {".json", ".txt"} and beside.name != HASHES:
                    shutil.copy(beside, path.parent)
    shutil.rmtree(run, ignore_errors=True)
    partial.rename(run)
    return run


def _start(name: str) -> Path:
    """The weights of a `local-dir:` backbone."""
    path = resolve(name.removeprefix("local-dir:")) / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"backbone.name: {name}: only what a run trained from a folder of weights (local-dir:) can be "
                         f"kept and restored, and there is no {path}")  # fmt: skip
    return path


def packed(weights: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What to keep of some weights: their differences from `start`, where there are any; `unpacked` undoes it.

    A matrix becomes int8 with a float32 for each row, which its numbers are multiples of: off by half of that at most.
    """
    kept = {}
    for name, weight in weights.items():
        change = weight.float() - start[name].float() if name in start else weight.float()
        if name in start and not change.any():
            continue
        if change.ndim < 2:
            kept[name] = change
            continue
        scale = change.flatten(1).abs().amax(dim=1) / 127
        kept[name] = (change / _beside(scale.clamp(min=1e-30), change)).round().to(torch.int8)
        kept[name + _SCALE] = scale
    return kept


def unpacked(kept: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that `packed` was given, but for rounding."""
    weights = {name: weight.float() for name, weight in start.items()}
    for name, number in kept.items():
        if not name.endswith(_SCALE):
            change = number.float() * (_beside(kept[name + _SCALE], number) if name + _SCALE in kept else 1)
            weights[name] = weights.get(name, 0) + change
    return weights


def _beside(scale: Tensor, matrix: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (matrix.ndim - 1))
