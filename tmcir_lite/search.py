"""Search: a picture and words against any folder of pictures, with the model of a finished run."""

from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure

from tmcir_lite import viz
from tmcir_lite.config import Config, load_config
from tmcir_lite.datasets import load_split
from tmcir_lite.files import InputError, resolve
from tmcir_lite.retrieval import ExactIndex, FaissIndex, gallery_features
from tmcir_lite.run_models import load_trained

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class Found(NamedTuple):
    """One answer."""

    path: Path
    cosine: float


def search(
    run: Path, image: Path, text: str, gallery: Path | None = None, k: int = 10, faiss: bool = False
) -> list[Found]:
    """The `k` pictures that fit best, best first; the picture asked with is left out.

    Args:
        run: the folder of a run whose ATF stage is finished.
        image: the reference image.
        text: the relative caption, such as "is red with longer sleeves".
        gallery: a folder of pictures, with those in its sub-folders; None: the val gallery of the run.
        faiss: whether to use FAISS instead of looking at every picture.

    Raises:
        InputError: no such run, picture or folder; an empty text; fewer than `k` pictures.
    """
    cfg = finished_run(run)
    if not text.strip():
        raise InputError("search: the text is empty; say what to change, such as 'is red with longer sleeves'")
    paths = [path for path in _pictures(cfg, gallery) if path != Path(image).resolve()]
    if len(paths) < k:
        raise InputError(
            f"search: {gallery or 'the val gallery'} has {len(paths)} pictures, fewer than the {k} asked for"
        )
    model = load_trained(cfg)
    device = next(model.parameters()).device
    with torch.no_grad():
        reference = model.backbone.load([Path(image)]).to(device)
        query = model.query(reference, model.backbone.tokenize([text]).to(device)).cpu()
    features = gallery_features(model.backbone, paths, cfg.run_dir / "search")
    rows, cosines = (FaissIndex if faiss else ExactIndex)(features).search(query, k)
    return [Found(paths[row], cosine) for row, cosine in zip(rows[0].tolist(), cosines[0].tolist(), strict=True)]


def show(image: Path, text: str, found: list[Found]) -> Figure:
    """The reference and what was found, best first, in rows of five."""
    rows = [found[start : start + 5] for start in range(0, len(found), 5)]
    cells = [[image if not number else None, *(f.path for f in row), *[None] * (5 - len(row))]
             for number, row in enumerate(rows)]  # fmt: skip
    captions = [text, *(f"{5 * n + 1} to {5 * n + len(row)}" for n, row in enumerate(rows) if n)]
    return viz.picture_rows(cells, ["reference", *(f"#{n}" for n in range(1, 6))], captions)


def finished_run(run: str | Path) -> Config:
    """The configuration of a run whose ATF stage is finished, from its folder wherever it has been moved to.

    Raises:
        InputError: there is no such run.
    """
    run = resolve(run)
    if not (run / "atf" / "metrics.json").is_file():
        raise InputError(f"{run}: no finished run in it (no atf/metrics.json); give a folder such as runs/lite")
    return load_config(run / "config.yaml").model_copy(update={"runs": str(run.parent), "name": run.name})


def _pictures(cfg: Config, gallery: Path | None) -> list[Path]:
    if gallery is None:
        split = load_split(cfg.data.root, cfg.data.layout, "val", cfg.data.categories, cfg.data.skip_missing)
        return sorted(split.images.values())
    folder = Path(gallery).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"search: {folder}: no such folder of pictures")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
