"""Pseudo-target images: a diffusion editor draws what the relative caption asks of the reference image.

What is drawn is kept in one folder with a manifest; an interrupted generation goes on and ends with the same files.
"""

import contextlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from PIL import Image

from tmcir_lite.config import EditorSettings
from tmcir_lite.data.captions import join_captions
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.pictures import load_image
from tmcir_lite.io.files import InputError, atomic, sha256, write_text
from tmcir_lite.io.processes import join
from tmcir_lite.io.progress import Progress
from tmcir_lite.pseudo_targets.editors import edit

MANIFEST = "manifest.jsonl"
_REDRAWS = 3  # of a picture that the editor's safety checker blacks, each with another seed


@dataclass(frozen=True)
class Job:
    """One pseudo-target to draw."""

    id: str
    reference: Path
    prompt: str
    seed: int


def jobs_for(triplets: Sequence[Triplet], images: dict[str, Path], seed: int) -> list[Job]:
    """One job a triplet: the prompt is its captions joined with "and" (our reading); the seed depends on its id."""
    return [
        Job(t.id, images[t.reference_name], join_captions(t.captions, "and"), zlib.crc32(f"{seed}/{t.id}".encode()))
        for t in triplets
    ]


def generate(
    load: Callable[[], DiffusionPipeline],
    jobs: Sequence[Job],
    settings: EditorSettings,
    folder: Path,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Draws the pseudo-targets that `folder` does not hold yet; returns the manifest's records of pictures, in order.

    Jobs are drawn in fixed batches, and a batch counts once all its lines stand in a manifest: whatever moment the
    generation was killed at, the batches that are drawn again are the same, and so are the files. Under `accelerate
    launch` the batches are dealt out to the processes, each with a manifest of its own, joined at the end; how many
    processes there are may change from one start to the next.

    A picture that the editor's safety checker blacks is drawn again with other seeds; its record says how often that
    was (`nsfw`) and with which seed it was drawn in the end (`redrawn_with`). One that is always blacked has a record,
    but no picture and no `sha256`; how many they are is printed.

    Args:
        load: called only if something is left to draw.
        folder: receives `<id>.png` and `manifest.jsonl`.
        device: the one that `load` puts the editor on.

    Raises:
        InputError: the folder was begun with other jobs or settings; a batch does not fit into memory; or the editor's
            safety checker blacked every picture.
    """
    folder, state = Path(folder), join(device)
    folder.mkdir(parents=True, exist_ok=True)
    batches = [jobs[start : start + settings.batch] for start in range(0, len(jobs), settings.batch)]
    shared = settings.model_dump(exclude={"batch", "limit"})
    with state.main_process_first():
        done = _join_manifests(folder, batches, shared, write=state.is_main_process)
    state.wait_for_everyone()  # nobody draws before all have read what is done
    left = [batch for batch in batches if batch[0].id not in done]
    mine = left[state.process_index :: state.num_processes]
    if mine:
        _draw(load(), mine, settings, folder, shared, state)
    state.wait_for_everyone()
    with state.main_process_first():
        done = _join_manifests(folder, batches, shared, write=state.is_main_process)
    left_out = sum("sha256" not in done[job.id] for job in jobs)
    if left_out and left_out == len(jobs):
        raise InputError(f"{folder}: the editor's safety checker blacked every picture; take another editor")
    if left_out and state.is_main_process:
        print(f"{left_out} of {len(jobs)} pseudo-targets are left out: the editor's safety checker blacked each of "
              f"{1 + _REDRAWS} draws", flush=True)  # fmt: skip
    return [done[job.id] for job in jobs if "sha256" in done[job.id]]


def without_picture(folder: Path) -> set[str]:
    """Ids of the pseudo-targets of `folder` that the editor's safety checker left without a picture."""
    return {record["id"] for record in _read(Path(folder) / MANIFEST) if "sha256" not in record}


def _draw(
    pipeline, batches: list[Sequence[Job]], settings: EditorSettings, folder: Path, shared, state: PartialState
) -> None:
    part = folder / f"manifest-{state.process_index}.jsonl"
    progress = Progress("pseudo-targets", sum(map(len, batches)), quiet=not state.is_main_process)
    for batch in batches:
        lines = [_record(job, shared) | _save(drawn, folder / f"{job.id}.png")
                 for job, drawn in zip(batch, _drawn(pipeline, batch, settings), strict=True)]  # fmt: skip
        with open(part, "a", encoding="utf-8") as manifest:
            manifest.writelines(json.dumps(line) + "\n" for line in lines)
        progress.advance(len(batch))


def _drawn(pipeline, batch: Sequence[Job], settings: EditorSettings) -> list[tuple[Image.Image | None, int, int]]:
    """For each job its picture, the seed it was drawn with, and how often it was blacked before."""
    images = [load_image(job.reference) for job in batch]
    drawn = [(None, job.seed, 0) for job in batch]
    for draw in range(1 + _REDRAWS):
        left = [place for place, (picture, *_) in enumerate(drawn) if picture is None]
        if not left:
            break
        seeds = [zlib.crc32(f"{batch[i].seed}/{draw}".encode()) if draw else batch[i].seed for i in left]
        prompts = [batch[i].prompt for i in left]
        edited = _within_memory(pipeline, [images[i] for i in left], prompts, seeds, settings)
        for place, picture, seed in zip(left, edited, seeds, strict=True):
            drawn[place] = picture, seed, draw + (picture is None)
    return drawn


def _save(drawn: tuple[Image.Image | None, int, int], path: Path) -> dict[str, Any]:
    """Writes a picture, if there is one; returns what the manifest says of it."""
    picture, seed, blacked = drawn
    if picture is None:
        return {"nsfw": blacked}
    with atomic(path) as temporary:
        picture.save(temporary)
    return {"sha256": sha256(path)} | ({"nsfw": blacked, "redrawn_with": seed} if blacked else {})


def _within_memory(pipeline, images, prompts, seeds, settings: EditorSettings):
    """`edit`; where memory does not suffice, once more with attention in slices, which is slower."""
    try:
        return edit(pipeline, images, prompts, seeds, settings)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        pipeline.enable_attention_slicing()
    try:
        return edit(pipeline, images, prompts, seeds, settings)
    except torch.cuda.OutOfMemoryError:
        raise InputError(f"editor.batch: {settings.batch} pictures of {settings.size} pixels do not fit into this "
                         "GPU's memory; `rehearse` finds the largest batch that does") from None  # fmt: skip


def _record(job: Job, shared: dict[str, Any]) -> dict[str, Any]:
    return {"id": job.id, "reference": job.reference.stem, "prompt": job.prompt, "seed": job.seed, **shared}


def _join_manifests(folder: Path, batches: list[Sequence[Job]], shared: dict[str, Any], write: bool) -> dict[str, dict]:
    """Job id -> record, of the batches that are whole; what a kill or a hand left of others is dropped.

    With `write` the manifests of single processes are joined to one, in the order of the jobs.
    """
    parts = sorted(folder.glob("manifest-*.jsonl"))
    found = {record["id"]: record for path in (folder / MANIFEST, *parts) for record in _read(path)}
    there = {path.stem for path in folder.glob("*.png")}
    found = {name: record for name, record in found.items() if name in there or "sha256" not in record}
    for job in (job for batch in batches for job in batch if job.id in found):
        expected, record = _record(job, shared), found[job.id]
        changed = [
            key for key in expected if key != "model" and record.get(key) != expected[key]
        ]  # see `run.folder.start_run`
        if changed:
            raise InputError(f"{folder / MANIFEST}: begun with another {', '.join(changed)} (see {job.id}); "
                             "give the run another name or remove the folder")  # fmt: skip
    whole = {job.id: found[job.id] for batch in batches if all(job.id in found for job in batch) for job in batch}
    if write and (parts or found.keys() != whole.keys()):
        write_text(folder / MANIFEST, "".join(json.dumps(record) + "\n" for record in whole.values()))
        for path in parts:
            path.unlink()
    return whole


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):  # the line that was being written when the generation was killed
            record = json.loads(line)
            if isinstance(record, dict) and "id" in record:
                records.append(record)
    return records
