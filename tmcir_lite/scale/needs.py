"""What a run needs, told before anything of it runs: its triplets, its models and room on the disk."""

import shutil

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from tmcir_lite.config import Config
from tmcir_lite.data.check import PUBLISHED
from tmcir_lite.data.datasets import load_split
from tmcir_lite.io.files import InputError, resolve
from tmcir_lite.run.backbones import hub_id

_PNG = 1.3  # bytes a pixel: of 26 photos of clothes, padded to 512 pixels, 0.7 in the mean and 1.2 at most


def count_data(cfg: Config) -> tuple[int, int, str]:
    """Train triplets, val gallery images, and where the numbers are from."""
    if cfg.garments is not None:
        g = cfg.garments
        sizes = (g.train, 3 * g.gallery) if cfg.data.layout == "fashioniq" else (g.cirr_train, 3 * g.cirr_val)
        return *sizes, f"{sizes[0]} train triplets, by the profile"
    root = resolve(cfg.data.root)
    if root.is_dir():
        train, val = (load_split(root, cfg.data.layout, name, cfg.data.categories, images=False)
                      for name in ("train", "val"))  # fmt: skip
        return len(train.triplets), sum(map(len, val.galleries.values())), f"{len(train.triplets)} triplets in {root}"
    published = PUBLISHED[cfg.data.layout]
    return (
        published["train"][0],
        published["val"][1],
        f"{root}: NOT THERE (data/README.md says how to get it); the published counts are used",
    )


def models_at_hand(cfg: Config) -> list[str]:
    """A line for each real model that comes from the hub: whether it is at hand."""
    try:
        cached = {repo.repo_id for repo in scan_cache_dir().repos}
    except CacheNotFound:
        cached = set()
    lines = []
    if not resolve(cfg.editor.model).is_dir():
        lines.append(f"editor {cfg.editor.model}: {_there(cfg.editor.model in cached)}")
    if not cfg.backbone.name.startswith("local-dir:"):
        hub = hub_id(cfg.backbone.name, cfg.backbone.pretrained)
        lines.append(f"backbone {cfg.backbone.name} ({hub}): {_there(hub in cached)}")
    return lines


def _there(cached: bool) -> str:
    return "in this machine's cache" if cached else "NOT in this machine's cache; it will be downloaded"


def disk_needed(cfg: Config, small: Config, triplets: int, trainings: int) -> str:
    """A line on what the run leaves on the disk, and what is free there.

    Args:
        small: the profile with stand-ins, whose backbone is on disk and as large as the real one.
        triplets: of the train split.
        trainings: of the run.

    Raises:
        InputError: too little is free.
    """
    backbone = resolve(small.backbone.name.removeprefix("local-dir:"))
    weights = sum(path.stat().st_size for path in backbone.glob("*.safetensors"))
    pictures = _PNG * (cfg.editor.limit or triplets) * cfg.editor.size**2
    models = (3 * trainings + 4) * weights  # three of each training stay, four of IACMA; three more at work
    need = (pictures + models) / 1e9
    free = shutil.disk_usage(small.run_dir.parent).free / 1e9
    if need > free:
        raise InputError(f"runs: {cfg.runs}: the run leaves about {need:.1f} GB, the disk has {free:.1f} GB free; "
                         "set runs to a folder on a larger disk")  # fmt: skip
    return f"disk: the run leaves about {need:.1f} GB, {free:.0f} GB are free"
