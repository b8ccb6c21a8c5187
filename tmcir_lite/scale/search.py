"""Search: a picture and words against any folder of pictures, with the model of a finished run.

Every picture is read as people see it (`pictures.load_photo`), those of the run's own val gallery too.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from tmcir_lite.config import Config, load_config
from tmcir_lite.data.captions import has_words
from tmcir_lite.data.datasets import load_split
from tmcir_lite.data.picture_files import files_below, problem
from tmcir_lite.data.pictures import load_photo, picture_suffixes
from tmcir_lite.evaluation.features import gallery_features, stamp
from tmcir_lite.evaluation.ranking import top
from tmcir_lite.figures import plots
from tmcir_lite.io.files import InputError, read_json, resolve, write_json
from tmcir_lite.io.progress import Progress
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.run.models import load_trained

SHOWN = 50
"""Answers that `show` draws at most."""
_DRAWN_AS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


class Hit(NamedTuple):
    """One answer."""

    path: Path
    cosine: float


def search(run: Path, image: Path, text: str, gallery: Path | None = None, k: int = 10) -> list[Hit]:
    """The `k` pictures that fit best, best first; the picture asked with is left out.

    What is left out of the gallery (hidden files, no pictures, broken ones) is said on stderr, and so is a gallery of
    fewer than `k`, of which all are given.

    Args:
        run: the folder of a run whose ATF stage is finished.
        image: the reference image.
        text: the relative caption, such as "is red with longer sleeves".
        gallery: a folder of pictures, with those in its sub-folders; None: the val gallery of the run.

    Raises:
        InputError: no such run, picture or folder; a text without words or beyond what the model reads; `k` below 1; no
            picture in the gallery.
    """
    cfg, folder = finished_run(run), resolve(run) / "search"
    if k < 1:
        raise InputError(f"search: top {k}: ask for at least 1 picture")
    image = Path(image).expanduser()
    load_photo(image)  # a broken one is named before the work
    paths = _val_gallery(cfg) if gallery is None else _folder(Path(gallery).expanduser().resolve())
    model = load_trained(cfg)
    check_text(model.backbone, text)
    if gallery is not None:
        paths = _sound(paths, folder)
    paths = [path for path in paths if path.resolve() != image.resolve()]
    if not paths:
        raise InputError(f"search: {gallery or 'the val gallery'} has no picture to show besides the reference")
    if len(paths) < k:
        _tell(f"the gallery has {len(paths)} pictures, fewer than the {k} asked for: all are shown")
    device = next(model.parameters()).device
    with torch.no_grad():
        reference = model.backbone.load([image], load_photo).to(device)
        query = model.query(reference, model.backbone.tokenize([text]).to(device)).cpu()
    features = gallery_features(model.backbone, paths, folder, load_photo)
    rows, cosines = nearest(features, query, min(k, len(paths)))
    return [Hit(paths[row], cosine) for row, cosine in zip(rows[0].tolist(), cosines[0].tolist(), strict=True)]


def show(image: Path, text: str, found: list[Hit]) -> Figure:
    """The reference and what was found, best first, in rows of five; at most `SHOWN`."""
    found = found[:SHOWN]
    rows = [found[start : start + 5] for start in range(0, len(found), 5)]
    cells = [[_small(image) if not number else None, *(_small(f.path) for f in row), *[None] * (5 - len(row))]
             for number, row in enumerate(rows)]  # fmt: skip
    captions = [text.replace("$", r"\$"), *(f"{5 * n + 1} to {5 * n + len(row)}" for n, row in enumerate(rows) if n)]
    return plots.picture_rows(cells, ["reference", *(f"#{n}" for n in range(1, 6))], captions)


def check_out(out: str) -> Path:
    """Where `show`'s figure is to be written, after making sure that it can be.

    Raises:
        InputError: another suffix than that of a figure, or no folder that can be written to.
    """
    path = Path(out).expanduser()
    if path.suffix.lower() not in _DRAWN_AS:
        raise InputError(f"search: --out {out}: no figure's suffix; give it one of {', '.join(_DRAWN_AS)}")
    if path.is_dir():
        raise InputError(f"search: --out {out}: is a folder; name a file in it")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"search: --out {out}: {path.parent} is no folder that can be written to; make it first")
    return path


def finished_run(run: str | Path) -> Config:
    """The configuration of a run whose ATF stage is finished, from its folder wherever it has been moved to.

    Raises:
        InputError: there is no such run.
    """
    run = resolve(run)
    if not (run / "atf" / "metrics.json").is_file():
        raise InputError(f"{run}: no finished run in it (no atf/metrics.json); give a folder such as runs/lite")
    return load_config(run / "config.yaml").model_copy(update={"runs": str(run.parent), "name": run.name})


def _tell(line: str) -> None:
    print(f"search: {line}", file=sys.stderr)


def _small(path: Path):
    picture = load_photo(path)
    picture.thumbnail((512, 512))
    return picture


def check_text(backbone: Backbone, text: str) -> None:
    """Makes sure that a text says something, and that the model reads all of it.

    Raises:
        InputError: it does not.
    """
    if not has_words(text):
        raise InputError("search: the text is empty; say what to change, such as 'is red with longer sleeves'")
    if not _is_unicode(text):
        raise InputError("search: the text is not valid Unicode; type it in a terminal of another encoding (UTF-8)")
    ids = backbone.tokenizer([text], context_length=backbone.context + len(text.encode()))
    count = int(backbone.text_mask(ids).sum()) - 1  # but for the end token
    if count > backbone.context - 2:
        raise InputError(f"search: the text has {count} tokens, of which this model reads {backbone.context - 2}; "
                         "shorten it")  # fmt: skip


def _val_gallery(cfg: Config) -> list[Path]:
    split = load_split(cfg.data.root, cfg.data.layout, "val", cfg.data.categories, cfg.data.skip_missing)
    if split.skipped:
        _tell(f"{sum(line.startswith('image ') for line in split.skipped)} missing or broken pictures are left out")
    return sorted(split.images.values())


def _folder(folder: Path) -> list[Path]:
    """Every file below `folder` that has a picture's suffix."""
    if not folder.is_dir():
        raise InputError(f"search: {folder}: no such folder of pictures")
    paths, others, known = [], Counter(), picture_suffixes()
    for path, hidden in files_below(folder):
        suffix = path.suffix.lower()
        if not hidden and suffix in known:
            paths.append(path)
        else:
            others["hidden" if hidden else suffix or "without suffix"] += 1
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
        _tell(f"{others.total()} files of {folder} are left out, no pictures that can be opened here: {kinds}")
    return paths


def _sound(paths: list[Path], folder: Path) -> list[Path]:
    """Those that can be decoded; the others are told. Each gallery is looked through once, and `folder` remembers."""
    broken = {path: "not a file, or a link that leads nowhere" for path in paths if not path.is_file()}
    broken |= {path: "its name is not valid Unicode; rename it" for path in paths if not _is_unicode(path)}
    paths = [path for path in paths if path not in broken]
    file = folder / f"{stamp(paths, load_photo)}.json"
    if not file.is_file():
        progress, problems = Progress("pictures", len(paths)), {}
        with ThreadPoolExecutor() as pool:
            for number, wrong in enumerate(pool.map(partial(problem, read=load_photo), paths)):
                problems |= {number: wrong} if wrong else {}
                progress.advance()
        write_json(file, problems)
    broken |= {paths[int(number)]: wrong for number, wrong in read_json(file).items()}
    if broken:
        _tell(f"{len(broken)} pictures are left out, which cannot be read:")
        for path, wrong in broken.items():
            name = os.fsencode(path).decode(errors="backslashreplace")
            print(f"  {name}: {wrong.removeprefix(f'{path}: ')}", file=sys.stderr)
    return [path for path in paths if path not in broken]


def _is_unicode(text: Path | str) -> bool:
    try:
        str(text).encode()
    except UnicodeEncodeError:  # a name of another encoding, as old archives leave them
        return False
    return True


def nearest(features: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The rows of the `k` nearest images of a gallery to each query, nearest first, and their cosines; both Q k.

    Args:
        features: G D, looked at block by block; may lie on disk.
        queries: Q D.
    """
    rows = top(queries, features, k)
    near = F.normalize(features[rows].float(), dim=-1)
    return rows, torch.einsum("qd,qkd->qk", F.normalize(queries.float(), dim=1), near)
