"""Bad input at the command line is one line that names it, exit status 2, and no earlier result changes."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tmcir_lite.__main__ import main
from tmcir_lite.data.pictures import load_image
from tmcir_lite.io.files import ROOT, read_json, write_json
from tmcir_lite.run import notebooks

LITE = (ROOT / "notebooks" / "params" / "lite.yaml").read_text()
TEXT = "is red with longer sleeves"


class Place:
    """Where a case happens: a folder of its own, with copies of the finished tiny run and its dataset to be damaged."""

    def __init__(self, folder: Path, cfg, tiny: list[str], monkeypatch):
        self.folder, self.cfg, self._tiny, self.monkeypatch = folder, cfg, tiny, monkeypatch
        self.seen = [cfg.run_dir]
        """Folders whose files have to stay as they are."""

    def stage(self, name: str, *changes: str) -> list[str]:
        """A command with the tiny run's profile and changes, in a run of its own."""
        given = [*self._tiny, f"runs={self.folder}/runs", *changes]
        return [name, *(part for change in given for part in ("--set", change))]

    def run(self, damage: Callable[[Path], object] = lambda run: None) -> Path:
        """A copy of the finished run, under the name that `stage` uses."""
        run = self.folder / "runs" / "tiny"
        shutil.copytree(self.cfg.run_dir, run)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace(f"runs: {self.cfg.runs}\n", f"runs: {run.parent}\n"))
        damage(run)
        self.seen.append(run)
        return run

    def copy(self, folder: str | Path, damage: Callable[[Path], object]) -> Path:
        """A copy of a folder (a dataset, a model), damaged."""
        there = shutil.copytree(folder, self.folder / "copy")
        damage(there)
        return there


def tree(folder: Path) -> dict[Path, tuple]:
    """Every file with what tells that it was written anew; but for the one that tells the latest start."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "environment.json"]
    return {path: (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path, change: Callable[[object], object]) -> None:
    """Changes a JSON file; `change` works in place, or returns the new content."""
    content = read_json(path)
    new = change(content)
    write_json(path, content if new is None else new)


class Case(NamedTuple):
    """A command, the words that its error has to hold, and the error's lines: more than one for lists of pictures."""

    command: Callable[[Place], list[str]]
    words: tuple[str, ...]
    lines: int


CASES: dict[str, Case] = {}


def case(name: str, command: Callable[[Place], list[str]], *words: str, lines: int = 1) -> None:
    assert name not in CASES, name
    CASES[name] = Case(command, words, lines)


# Configuration: keys

for override, *words in [
    ("iacma.epoch=2", "iacma.epoch", "unknown key", "did you mean iacma.epochs"),
    ("iacmaa.epochs=2", "iacmaa", "unknown key"),
    ("iacma.epochs=two", "iacma.epochs", "'two'"),
    ("iacma.epochs=-1", "iacma.epochs", "-1"),
    ("iacma.epochs=true", "iacma.epochs", "True"),
    ("iacma.epochs=1.5", "iacma.epochs", "1.5"),
    ("iacma.epochs=null", "iacma.epochs", "None"),
    ("iacma.epochs=[1]", "iacma.epochs", "[1]"),
    ("iacma.lr=1e-5", "iacma.lr", "write 1.0e-5"),
    ("iacma.lr=.nan", "iacma.lr", "finite"),
    ("iacma.lr=.inf", "iacma.lr", "finite"),
    ("iacma.lr=0", "iacma.lr", "greater than 0"),
    ("iacma.batch=1", "iacma.batch", "1"),
    ("iacma.chunk=0", "iacma.chunk", "0"),
    ("iacma=[1, 2]", "iacma", "section"),
    ("iacma=5", "iacma", "section"),
    ("seed={a: 1}", "seed", "{'a': 1}"),
    ("seed=2147483648", "seed", "2147483648"),
    ("name=../elsewhere", "name", "'../elsewhere'"),
    ("name=2024-01-01", "name", "date"),
    ("name=", "name", "None"),
    ("name.x=1", "name", "not a section"),
    ("seed", "'seed'", "section.key=value"),
    ("=1", "'=1'", "section.key=value"),
    ("seed=[1", "'[1'", "not a YAML value"),
    ("device=tpu", "device", "'tpu'"),
    ("data.layout=coco", "data.layout", "'coco'"),
    ("data.categories=[]", "data.categories", "[]"),
    ("data.categories=dress", "data.categories", "'dress'"),
    ("data.heldout=1.0", "data.heldout", "less than 1"),
    ("data.also_evaluate=[{layout: fashioniq, root: x}]", "data.also_evaluate", "fashioniq"),
    ("data.also_evaluate=[x]", "data.also_evaluate.0", "'x'"),
    ("data.also_evaluate=[{layout: cirr}]", "data.also_evaluate.0.root", "missing"),
    ('data.root="a\\0b"', "data.root"),
    ('runs="a\\0b"', "runs"),
    ("backbone.target_pad=0.5", "backbone.target_pad", "0.5"),
    ("editor=sd4", "editor", "'sd4'", "sd3"),
    ("editor.strength=2", "editor.strength", "2"),
    ("atf.threshold=-0.1", "atf.threshold", "-0.1"),
    ("atf.encoders=all", "atf.encoders", "'all'"),
    ("evaluation.protocols=[cirr]", "evaluation", "cirr: fashioniq has"),
    ("evaluation.protocols=[]", "evaluation.protocols", "[]"),
    ("evaluation.recall_at=[0]", "evaluation.recall_at.0", "0"),
]:
    case(f"key {override}", lambda place, o=override: place.stage("data", o), *words)

if not torch.cuda.is_available():
    case("no such device", lambda place: place.stage("data", "device=cuda"), "device: cuda")

# Configuration: files


def profile(name: str, content: bytes | str | None, *words: str) -> None:
    def command(place: Place) -> list[str]:
        path = place.folder / "mine.yaml"
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["data", "--config", str(path), "--set", f"runs={place.folder}"]

    case(f"profile {name}", command, "mine.yaml", *words)


profile("empty", "", "no `key: value` lines")
profile("of comments", "# nothing\n", "no `key: value` lines")
profile("a list", "- a\n- b\n", "no `key: value` lines")
profile("a text", "lite\n", "no `key: value` lines")
profile("no YAML", "name: [1, 2\n", "line 2")
profile("with tabs", "name: a\n\tseed: 0\n", "line 2")
profile("with a key twice", LITE + "name: other\n", "key 'name' stands twice")
profile("binary", b"\xff\xfe\x00\x01", "not readable as YAML")
profile("a folder", None, "Is a directory")
profile(
    "without a section", LITE.split("\npic2word:")[0] + "\nevaluation: {protocols: [original]}\n", "pic2word: missing"
)
profile("with a tag", "name: !!python/object/apply:os.system [ls]\n", "line 1")
case("no such profile", lambda place: ["data", "--config", "light"], "'light'", "lite")
case("no such profile's file", lambda place: ["data", "--config", str(place.folder / "no.yaml")], "no.yaml: no such")
case("editors.yaml is no profile", lambda place: ["data", "--config", "editors"], "'editors'")

# Places


def a_file(place: Place) -> Path:
    (place.folder / "file").touch()
    return place.folder / "file"


def full_folder(place: Place) -> Path:
    """What a user has there already."""
    folder = place.folder / "photos"
    folder.mkdir()
    (folder / "holiday.txt").touch()
    place.seen.append(folder)
    return folder


case("runs is a file", lambda p: p.stage("data", f"runs={a_file(p)}"), "file/tiny", "cannot be written")
case("a name too long", lambda p: p.stage("data", f"name={'n' * 300}"), "nnn")
case("the world's root is a file", lambda p: p.stage("data", f"garments.root={a_file(p)}"), "/file")
case("the world's root is a user's folder", lambda p: p.stage("data", f"garments.root={full_folder(p)}"),
     "photos", "garments.root")  # fmt: skip
case("the scenes' root is a user's folder",
     lambda p: p.stage("data", "garments=null", f"scenes={{root: {full_folder(p)}, seed: 0, train: 9, val: 9}}"),
     "photos", "scenes.root")  # fmt: skip
case("the cache is a file", lambda p: [*p.stage("iacma", f"data.cache={a_file(p)}"), *["--set", "iacma.epochs=1"]]
     if p.run(lambda run: shutil.rmtree(run / "iacma")) else [], "/file")  # fmt: skip

# Drawn worlds


def world(name: str, changes: list[str], *words: str) -> None:
    case(f"world {name}", lambda place: place.stage("data", f"garments.root={place.folder}/world", *changes), *words)


def scenes(name: str, settings: str, *words: str) -> None:
    def command(place: Place) -> list[str]:
        root = place.folder / "scenes"
        return place.stage("data", "garments=null", f"scenes={{root: {root}, seed: 0, {settings}}}", "data.layout=cirr",
                           f"data.root={root}", "data.also_evaluate=[]", "evaluation.protocols=[cirr]")  # fmt: skip

    case(f"scenes {name}", command, *words)


world("of a gallery too small", ["garments.gallery=5"], "garments.gallery is 5", "at least 6")
world("of more garments than there are", ["garments.gallery=9000000"], "garments.gallery", "9000000")
world("of a gallery that the queries cannot fill", ["garments.gallery=1500"], "garments.gallery is 1500", "at most")
world("without val", ["garments.val=0"], "garments.val", "0")
world("of negative size", ["garments.train=-4"], "garments.train", "-4")
world("of families of none", ["garments.family=0"], "garments.family", "0")
case("world with other parameters", lambda p: p.stage("data", "garments.seed=1"), "garments.root", "other parameters")
scenes("without val", "train: 9, val: 0", "scenes.val", "0")
scenes("of negative size", "train: -9, val: 9", "scenes.train", "-9")
scenes("of more pairs than a set has", "train: 9, val: 9, train_pairs: 31", "scenes.train_pairs is 31", "1 to 6")
scenes("of no pairs", "train: 9, val: 9, val_pairs: 0", "scenes.val_pairs", "0")
scenes("without a seed", "train: 9, val: 9, seeds: 3", "scenes.seeds", "unknown key")

# Dataset trees


def dataset(
    name: str, damage: Callable[[Path], object], *words: str, layout: str = "fashioniq", lines: int = 1
) -> None:  # fmt: skip
    """Annotation or pictures of the tiny world in one layout, damaged."""

    def command(place: Place) -> list[str]:
        root = place.copy(Path(place.cfg.garments.root) / layout, damage)
        protocol = {"fashioniq": "original", "cirr": "cirr"}[layout]
        return place.stage("data", "garments=null", f"data.layout={layout}", f"data.root={root}",
                           "data.also_evaluate=[]", f"evaluation.protocols=[{protocol}]")  # fmt: skip

    case(f"{layout} {name}", command, *words, lines=lines)


CAP, SPLIT = "captions/cap.dress.val.json", "image_splits/split.dress.val.json"
dataset("that is not there", shutil.rmtree, "copy: no folder captions/")
dataset("without captions", lambda r: shutil.rmtree(r / "captions"), "copy: no folder captions/")
dataset("without pictures", lambda r: shutil.rmtree(r / "images"), "copy: no folder images/")
dataset("without a split file", lambda r: (r / SPLIT).unlink(), f"{SPLIT}: no such file")
dataset("without val", lambda r: [path.unlink() for path in r.glob("captions/*.val.json")], "cap.<category>.val.json")
dataset("of half a file", lambda r: half(r / CAP), CAP, "not valid JSON")
dataset("of an empty file", lambda r: (r / CAP).write_text(""), CAP, "it is empty")
dataset("of a web page", lambda r: (r / CAP).write_text("<html>404</html>"), CAP, "HTML")
dataset("of binary", lambda r: (r / CAP).write_bytes(b"\xff\xfe\xfa\x00\x01"), CAP, "not valid JSON")
dataset("of endless brackets", lambda r: (r / CAP).write_text("[" * 100_000), CAP, "not valid JSON")
dataset("of another shape", lambda r: (r / CAP).write_text('{"a": 1}'), CAP, "not a list")
dataset("of no triplets", lambda r: (r / CAP).write_text("[]"), "no triplet of val in category dress")
dataset("whose split is an object", lambda r: (r / SPLIT).write_text("{}"), SPLIT, "not a list")
dataset("whose file is a folder", lambda r: [(r / CAP).unlink(), (r / CAP).mkdir()], CAP, "cannot be read")


def record(name: str, change: Callable[[dict], object], *words: str) -> None:
    dataset(name, lambda r: edit(r / CAP, lambda records: (change(records[0]), records)[1]), f"{CAP}, record 0", *words)


record("with a record that names no picture", lambda t: t.update(target="B0"), "'B0' is not in the split file")
record("with a record without a target", lambda t: t.pop("target"), "no key 'target'")
record("with a target that is a number", lambda t: t.update(target=7), "7")
record("with a target that is the reference", lambda t: t.update(target=t["candidate"]), "both reference and target")
record("with a name that is a path", lambda t: t.update(candidate="../x"), "'../x'")
record("without captions in a record", lambda t: t.update(captions=[]), "'captions' is empty")
record("with captions that are a text", lambda t: t.update(captions="is red"), "not a list")
record("with a caption that is no text", lambda t: t.update(captions=["is red", 3]), "3")
dataset("with a record that is a list", lambda r: edit(r / CAP, lambda records: [[], *records]), "record 0")
dataset("with a name twice", lambda r: edit(r / SPLIT, lambda names: [*names, names[0]]), SPLIT, "stands twice")
dataset("with a name that is no text", lambda r: edit(r / SPLIT, lambda names: [*names, None]), SPLIT, "None")
case("no such category", lambda p: p.stage("data", "data.categories=[hats]"), "'hats'", "dress")
case("too little to hold out", lambda p: p.stage("data", "data.heldout=0.001"), "data.heldout: 0.001")
case("more in a batch than there is", lambda p: p.stage("pic2word", "pic2word.batch=5000"), "batch: 5000")
case("edits together that are not there", lambda p: p.stage("data", "data.edits_together=3"), "data.edits_together: 3")

RC2 = "captions/cap.rc2.val.json"
IN_CIRR = {
    "with a pair twice": (lambda r: edit(r / RC2, lambda t: [t[0], *t]), "record 1: pairid", "stands twice"),
    "with an img_set of five": (
        lambda r: edit(r / RC2, lambda t: (t[0]["img_set"]["members"].pop(), t)[1]), "record 0, img_set", "members"
    ),
    "without an img_set": (lambda r: edit(r / RC2, lambda t: (t[0].pop("img_set"), t)[1]), "record 0", "'img_set'"),
    "with a reference outside its set": (
        lambda r: edit(r / RC2, lambda t: t[0].update(reference=t[-1]["reference"])), "record 0, img_set"
    ),
    "with a caption that is no text": (lambda r: edit(r / RC2, lambda t: t[0].update(caption=None)), "'caption'"),
    "whose split is a list": (
        lambda r: (r / "image_splits/split.rc2.val.json").write_text("[]"), "split.rc2.val.json", "not an object"
    ),
}  # fmt: skip
for name, (damage, *words) in IN_CIRR.items():
    dataset(name, damage, *words, layout="cirr")
case("cirr has no categories", lambda p: p.stage("data", "data.layout=cirr", "data.categories=[dress]",
     f"data.root={p.cfg.garments.root}/cirr", "data.also_evaluate=[]", "evaluation.protocols=[cirr]"),
     "data.categories: null")  # fmt: skip

# Pictures


def sized(side: int) -> Callable[[Path], object]:
    """A PNG that says its sides are so long."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)

    return damage


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


PICTURES = {
    "that is not there": Path.unlink,
    "of no bytes": lambda path: path.write_bytes(b""),
    "of half a file": half,
    "that is a text": lambda path: path.write_text("a red dress"),
    "that is a web page": lambda path: path.write_text("<html>404</html>"),
    "of zero size": sized(0),
    "that is a bomb": sized(30_000),
    "that is a folder": folder,
    "that is a link to nothing": lambda path: [path.unlink(), path.symlink_to("nowhere.png")],
}


def first_picture(root: Path) -> Path:
    name = read_json(root / CAP)[0]["candidate"]
    return root / "images" / f"{name}.png"


for name, damage in PICTURES.items():
    dataset(
        f"with a picture {name}", lambda r, d=damage: d(first_picture(r)), "copy: 1 of the", "skip_missing", lines=3
    )
    case(f"search with a picture {name}",
         lambda p, d=damage: searched(p, "--image", str(damaged(p, d))), "me.png")  # fmt: skip


def damaged(place: Place, damage: Callable[[Path], object]) -> Path:
    path = place.folder / "me.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    damage(path)
    return path


def half_jpeg(root: Path) -> None:
    path = first_picture(root)
    Image.open(path).resize((300, 300)).save(path.with_suffix(".jpg"))
    path.unlink()
    half(path.with_suffix(".jpg"))


dataset("with half a JPEG", half_jpeg, "copy: 1 of the", "skip_missing", lines=3)
dataset("with a picture in two formats", lambda r: Image.new("RGB", (9, 9)).save(first_picture(r).with_suffix(".jpg")),
        "are both there", lines=3)  # fmt: skip

# Search


def searched(place: Place, *options: str) -> list[str]:
    given = {"--run": str(place.cfg.run_dir), "--image": str(ROOT / "data" / "results" / "pseudo_targets.png"),
             "--text": TEXT, "--out": str(place.folder / "out.png")}  # fmt: skip
    given |= dict(zip(options[::2], options[1::2], strict=True))
    return ["search", *(part for pair in given.items() for part in pair)]


def empty_folder(place: Place) -> str:
    (place.folder / "empty").mkdir()
    return str(place.folder / "empty")


case("search without a run", lambda p: searched(p, "--run", str(p.folder)), "no finished run")
case("search in a gallery that is not there", lambda p: searched(p, "--gallery", "/no/such"), "/no/such")
case("search in an empty gallery", lambda p: searched(p, "--gallery", empty_folder(p)), "empty")
case("search in a file", lambda p: searched(p, "--gallery", str(a_file(p))), "no such folder")
case("search for nothing", lambda p: searched(p, "--text", " "), "the text is empty")
case("search for punctuation", lambda p: searched(p, "--text", "\u200b ?!"), "the text is empty")
case("search for fewer than none", lambda p: searched(p, "--top", "-1"), "top -1")
case("search for too much", lambda p: searched(p, "--text", "red and " * 99), "tokens", "shorten it")
case("search for no Unicode", lambda p: searched(p, "--text", "red \udcff"), "not valid Unicode")
case("search for none", lambda p: searched(p, "--top", "0"), "top 0")
case("search for ten", lambda p: searched(p, "--top", "ten"), "--top", "'ten'")
case("search for a text file", lambda p: searched(p, "--out", "found.txt"), "found.txt", ".png")
case("search into no folder", lambda p: searched(p, "--out", "/no/such/found.png"), "/no/such")

# Weights


def backbone(name: str, damage: Callable[[Path], object], *words: str) -> None:
    def command(place: Place) -> list[str]:
        clip = place.copy(place.cfg.backbone.name.removeprefix("local-dir:"), damage)
        return place.stage("pic2word", f"backbone.name=local-dir:{clip}")

    case(f"CLIP {name}", command, "copy", *words)


def editor(name: str, damage: Callable[[Path], object], *words: str) -> None:
    def command(place: Place) -> list[str]:
        return place.stage("pseudo-targets", f"editor.model={place.copy(place.cfg.editor.model, damage)}")

    case(f"editor {name}", command, "editor.model" if not words else words[0], *words)


WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"


def pickled(path: Path, name: str) -> None:
    """The same weights as a pickle, in place of the file."""
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    path.unlink()
    torch.save(tensors, path.with_name(name))


def fewer(path: Path) -> None:
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    tensors.pop(max(tensors))
    save_file(tensors, path)


def hashes(folder: Path, name: str) -> None:
    write_json(folder / "sha256.json", {name: "0" * 64})


backbone("that is not there", shutil.rmtree, "holds no", CONFIG)
backbone("without weights", lambda c: (c / WEIGHTS).unlink(), "holds no", WEIGHTS)
backbone("of half the weights", lambda c: half(c / WEIGHTS), "not a whole safetensors file")
backbone("of empty weights", lambda c: (c / WEIGHTS).write_bytes(b""), "not a whole safetensors file")
backbone("of a pickle", lambda c: pickled(c / WEIGHTS, "open_clip_pytorch_model.bin"), "holds no", WEIGHTS)
backbone("of a pickle renamed", lambda c: pickled(c / WEIGHTS, WEIGHTS), "not a whole safetensors")
backbone("of fewer weights", lambda c: fewer(c / WEIGHTS), "cannot be loaded")
backbone("of another architecture", lambda c: edit(c / CONFIG, lambda j: j["model_cfg"].update(embed_dim=48)), "size")
backbone("of another kind", lambda c: edit(c / CONFIG, lambda j: j["model_cfg"]["vision_cfg"].update(
    timm_model_name="vit")), "timm")  # fmt: skip
backbone("of another hash", lambda c: hashes(c, WEIGHTS), WEIGHTS, "SHA-256 differs")
backbone("lacking a hashed file", lambda c: hashes(c, "more.safetensors"), "more.safetensors: missing")
backbone("with hashes that are a list", lambda c: write_json(c / "sha256.json", []), "sha256.json")
backbone("of half a configuration", lambda c: half(c / CONFIG), CONFIG, "not valid JSON")
backbone("of another configuration", lambda c: write_json(c / CONFIG, ["a"]), "no model_cfg")
backbone("with a word for a number", lambda c: edit(c / CONFIG, lambda j: j["model_cfg"]["vision_cfg"].update(
    layers="two")), "cannot be loaded")  # fmt: skip
backbone("without a tokenizer", lambda c: [path.unlink() for path in c.glob("*token*")], "tokenizer")

for overrides, *words in [
    (["backbone.name=ViT-Z"], "'ViT-Z'"),
    (["backbone.name=ViT-B-32"], "backbone.pretrained", "random weights"),
    (["backbone.name=ViT-B-32", "backbone.pretrained=/no/such.pt"], "backbone.pretrained", "/no/such.pt"),
    (["backbone.name=ViT-B-32", f"backbone.pretrained={ROOT}"], "is a folder"),
    (["backbone.name=RN50", "backbone.pretrained=openai"], "RN50", "ResNet"),
    (["backbone.pretrained=openai"], "backbone.pretrained", "write null"),
]:
    case(f"CLIP {' '.join(overrides)}", lambda place, o=overrides: place.stage("pic2word", *o), *words)

UNET = "unet/diffusion_pytorch_model.safetensors"
editor("that is not there", shutil.rmtree, "copy: no such folder")
editor("that is an empty folder", lambda e: [shutil.rmtree(e), e.mkdir()])
editor("of half the weights", lambda e: half(e / UNET))
editor("without weights", lambda e: (e / UNET).unlink())
editor("of fewer weights", lambda e: fewer(e / UNET))
editor("of half a model_index.json", lambda e: half(e / "model_index.json"))
editor("of another hash", lambda e: hashes(e, UNET), UNET)
editor("of a pickle", lambda e: pickled(e / UNET, "diffusion_pytorch_model.bin"))
case("editor of no such class", lambda p: p.stage("pseudo-targets", "editor.pipeline=NoPipeline"), "'NoPipeline'")
case("editor that draws from text alone", lambda p: p.stage(
    "pseudo-targets", "editor.pipeline=StableDiffusionPipeline"), "editor")  # fmt: skip
case("editor with strength", lambda p: p.stage("pseudo-targets", "editor.strength=0.5"), "editor.strength: 0.5")

# What a run left


def left(name: str, command: str, damage: Callable[[Path], object], *words: str) -> None:
    """A file of the run is damaged, and the stage is run again."""
    case(f"run {name}", lambda p: p.stage(command) if p.run(damage) else [], *words)


def unfinished(folder: str) -> Callable[[Path], None]:
    """As a kill leaves a training: without its models, one epoch short."""

    def damage(run: Path) -> None:
        (run / folder / "metrics.json").unlink()
        state = run / folder / "checkpoint" / "state.json"
        edit(state, lambda j: j.update(epoch=1, history=j["history"][:2]))
        weights = load_file(run / folder / "last.safetensors")
        save_file(weights, run / folder / "checkpoint" / "model-1.safetensors")

    return damage


def then(*damages: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda run: [damage(run) for damage in damages] and None


STATE, LAST = "checkpoint/state.json", "last.safetensors"
left("of half a config.yaml", "iacma", lambda r: (r / "config.yaml").write_text("name: [1"), "config.yaml")
left("of another seed", "iacma", lambda r: (r / "config.yaml").write_text(
    (r / "config.yaml").read_text().replace("seed: 0", "seed: 5")), "config.yaml", "seed (5 there, 0 now)")  # fmt: skip
left("of half an inputs.json", "iacma", lambda r: half(r / "inputs.json"), "inputs.json")
left("of another inputs.json", "iacma", lambda r: write_json(r / "inputs.json", []), "inputs.json")
left("of another dataset", "iacma", lambda r: edit(r / "inputs.json", lambda j: j.update({"data.root": "0"})),
     "data.root")  # fmt: skip
left("of half a state", "atf", lambda r: half(r / "atf" / STATE), "state.json")
left("of an empty state", "atf", lambda r: write_json(r / "atf" / STATE, {}), "state.json")
left("of a state that is a list", "atf", lambda r: write_json(r / "atf" / STATE, []), "state.json")
left("without a history", "atf", lambda r: (r / "atf" / "history.csv").unlink(), "history.csv")
left("of an empty history", "atf", lambda r: (r / "atf" / "history.csv").write_text(""), "history.csv")
left("of another history", "atf", lambda r: (r / "iacma" / "history.csv").write_text("a,b\n1,2\n") and
     shutil.rmtree(r / "atf"), "history.csv")  # fmt: skip
left("whose optimizer is gone", "atf", unfinished("atf"), "optimizer-1.safetensors")
left("of half an optimizer", "atf", then(unfinished("atf"), lambda r: (
    r / "atf/checkpoint/optimizer-1.safetensors").write_bytes(b"12345")), "optimizer-1.safetensors")  # fmt: skip
left("of another optimizer", "atf", then(unfinished("atf"), lambda r: save_file(
    {"0.exp_avg": torch.ones(3)}, r / "atf/checkpoint/optimizer-1.safetensors")), "optimizer-1.safetensors",
)  # fmt: skip
left("of half a checkpoint", "atf", then(unfinished("atf"), lambda r: half(
    r / "atf/checkpoint/model-1.safetensors")), "model-1.safetensors")  # fmt: skip
left("of another model's checkpoint", "atf", then(unfinished("atf"), lambda r: save_file(
    {"a": torch.ones(3)}, r / "atf/checkpoint/model-1.safetensors")), "model-1.safetensors")  # fmt: skip
left("of other settings", "atf", lambda r: [unfinished("atf")(r), edit(
    r / "atf" / STATE, lambda j: j["settings"].update(lr=9.0))], "state.json", "lr: 9.0 there")  # fmt: skip
left("of half aligned encoders", "atf", lambda r: [shutil.rmtree(r / "atf"), half(r / "iacma/model" / WEIGHTS)],
     "iacma/model", "not a whole safetensors file")  # fmt: skip
left("without aligned encoders", "atf", lambda r: [shutil.rmtree(r / "atf"), shutil.rmtree(r / "iacma")], "iacma")
case("search with half a fusion", lambda p: searched(p, "--run", str(p.run(
     lambda r: half(r / "atf/model/fusion.safetensors")))), "fusion.safetensors", "not a whole")  # fmt: skip
left("without a rival", "evaluate", lambda r: [shutil.rmtree(r / "evaluation"), shutil.rmtree(r / "pic2word")],
     "pic2word")  # fmt: skip
left("of empty results", "evaluate", lambda r: (r / "evaluation/results.csv").write_text(""), "results.csv")
left("of other results", "evaluate", lambda r: (r / "evaluation/results.csv").write_text("a,b\n1,2\n"), "results.csv")
left("of binary results", "evaluate", lambda r: (r / "evaluation/results.csv").write_bytes(b"\xff\xfe\x00"),
     "results.csv")  # fmt: skip


def manifest(name: str, change: Callable[[list[dict]], list], command: str, *words: str) -> None:
    def damage(run: Path) -> None:
        path = run / "pseudo_targets" / "manifest.jsonl"
        records = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        shutil.rmtree(run / "iacma")

    left(f"whose manifest {name}", command, damage, "manifest.jsonl", *words)


manifest("is of other settings", lambda r: [r[0] | {"steps": 9}, *r[1:]], "pseudo-targets", "steps")
manifest("is of another seed", lambda r: [r[0] | {"seed": 9}, *r[1:]], "pseudo-targets", "seed")
left("without a pseudo-target", "iacma", lambda r: [shutil.rmtree(r / "iacma"), (
    r / "pseudo_targets/dress-train-0.png").unlink()], "dress-train-0.png", "pseudo-targets")  # fmt: skip
left("of half a pseudo-target", "iacma", lambda r: [shutil.rmtree(r / "iacma"), [
    half(path) for path in r.glob("pseudo_targets/*.png")]], ".png", "cannot be decoded")  # fmt: skip

# The study


def study(name: str, options: Callable[[Place], list[str]], *words: str) -> None:
    case(f"study {name}", lambda p: [*p.stage("study"), "--seeds", "0", "--out", str(p.folder / "out"), *options(p)],
         *words)  # fmt: skip


def plan(change: Callable[[dict], object] | str) -> Callable[[Place], list[str]]:
    def options(place: Place) -> list[str]:
        path = place.folder / "plan.yaml"
        if isinstance(change, str):
            path.write_text(change)
        else:
            content = yaml.safe_load((ROOT / "tmcir_lite" / "study" / "plan.yaml").read_text())
            change(content)
            path.write_text(yaml.safe_dump(content))
        return ["--plan", str(path)]

    return options


def table(name: str, content: str | bytes) -> Callable[[Place], list[str]]:
    def options(place: Place) -> list[str]:
        (place.folder / "out").mkdir()
        (place.folder / "out" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        place.seen.append(place.folder / "out")
        return []

    return options


def main_cell(content: dict) -> dict:
    return next(cell for cell in content["cells"] if cell["method"] == "TMCIR")


study("of no such part", lambda p: ["--parts", "nonsense"], "'nonsense'", "main")
study("of a seed that is none", lambda p: ["--seeds", "one"], "--seeds", "'one'")
study("of a negative seed", lambda p: ["--seeds", "-1"], "seed", "-1")
study("without a plan", lambda p: ["--plan", str(p.folder / "no.yaml")], "no.yaml: no such file")
study("with an empty plan", plan(""), "plan.yaml")
study("with a plan that is a list", plan("- a\n"), "plan.yaml")
study("with a plan that is no YAML", plan("cells: [1\n"), "plan.yaml", "line 2")
study("with a plan of unknown keys", plan(lambda c: main_cell(c).update(lr=1)), "plan.yaml", "lr")
study("with a plan without cells", plan(lambda c: c.pop("cells")), "plan.yaml", "cells")
study("with a plan of an unknown fusion", plan(lambda c: main_cell(c).update(fusion="gate")), "plan.yaml", "'gate'")
study("with a plan of an unknown method", plan(lambda c: main_cell(c).update(method="BLIP")), "plan.yaml", "method")
study("with a plan of an unknown alignment", plan(lambda c: main_cell(c).update(aligned="x")), "plan.yaml", "'x'")
study("with a plan of a cell twice", plan(lambda c: c["cells"].append(main_cell(c))), "plan.yaml", "twice")
study("with a plan of a claim on no cell", plan(lambda c: c["claims"][0].update(tests=[["x", "TMCIR"]])), "'x'")
study("with a plan of an unknown override", plan(lambda c: main_cell(c).update(set=["atf.lrr=1"])), "atf.lrr")
study("with a plan of an unknown rule", plan(lambda c: main_cell(c).update(world={"moon": 1})), "moon")
study("into a file", lambda p: ["--out", str(a_file(p))], "/file")
study("whose table is empty", table("study.csv", ""), "study.csv")
study("whose table is of other columns", table("study.csv", "a,b\n1,2\n"), "study.csv", "data")
study("whose table is binary", table("study.csv", b"\xff\xfe\x00\x80"), "study.csv")
study("whose table is of other data", table("study.csv", "cell,seed,data\nTMCIR,0,moon\n"), "study.csv", "moon")
study("whose outcomes are no gzip", table("outcomes.csv.gz", "cell,seed\n"), "outcomes.csv.gz")
study("of scenes with worlds of garments", lambda p: ["--parts", "drift", "--set", "garments=null", "--set",
      f"scenes={{root: {p.folder}/scenes, seed: 0, train: 20, val: 9}}"], "cannot be drawn")  # fmt: skip

# The notebooks


def notebook(name: str, damage: Callable[[Path], object], *words: str) -> None:
    """Of the driver: a notebook is damaged before the run."""

    def command(place: Place) -> list[str]:
        own = place.copy(notebooks.FOLDER, lambda f: damage(f / "05_evaluation.ipynb"))
        place.monkeypatch.setattr(notebooks.run, "__defaults__", (*notebooks.run.__defaults__[:-1], own))
        return place.stage("run")

    case(f"notebook {name}", command, "05_evaluation.ipynb", *words)


def renamed(path: Path) -> None:
    content = nbformat.read(path, as_version=4)
    cell = next(cell for cell in content.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = cell.source.replace("overrides", "changes")
    nbformat.write(content, path)


notebook("that is not there", Path.unlink, "no such notebook")
notebook("of a renamed parameter", renamed, "changes")
notebook("of half a file", half, "notebook")
notebook("of an empty file", lambda path: path.write_text(""), "notebook")
notebook("of another shape", lambda path: path.write_text("[]"), "notebook")
notebook("of another version", lambda path: path.write_text('{"nbformat": 99}'), "notebook")
case("run that exists", lambda p: p.stage("run") if p.run(lambda r: (r / "notebooks").mkdir()) else [], "--resume")

# Other commands

case("submit without CIRR", lambda p: p.stage("submit", "data.also_evaluate=[]"), "nothing to submit")
case("submit without test1", lambda p: p.stage("submit") if p.run() else [], "split.rc2.test1.json")
case("circo without a run", lambda p: ["circo", "--run", str(p.folder)], "no finished run")
case("circo without CIRCO", lambda p: ["circo", "--run", str(p.cfg.run_dir), "--root", str(p.folder)],
     "image_info_unlabeled2017.json")  # fmt: skip
case("rehearse of an unknown CLIP", lambda p: ["rehearse", "--config", "cirr", "--set", f"runs={p.folder}", "--set",
     "backbone.name=ViT-Z"], "'ViT-Z'")  # fmt: skip
case("rehearse of an unknown editor", lambda p: p.stage("rehearse", "editor.model=a/b", "editor.pipeline=NoPipeline"),
     "NoPipeline")  # fmt: skip


def named_rehearsal(place: Place) -> list[str]:
    shutil.copytree(place.cfg.run_dir, place.folder / "runs" / "tiny-rehearsal")
    place.seen.append(place.folder / "runs" / "tiny-rehearsal")
    return place.stage("rehearse")


case("rehearse over a run", named_rehearsal, "tiny-rehearsal")
case("no command", lambda p: [], "command")
case("no such command", lambda p: ["train"], "'train'")
case("no such option", lambda p: ["iacma", "--profile", "lite"], "--profile")
case("an option without its value", lambda p: ["data", "--set"], "--set")
case("data of no such action", lambda p: ["data", "chek"], "'chek'", "check")


@pytest.fixture
def place(tmp_path, cfg, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, cfg, tiny, monkeypatch)


def status(command: list[str]) -> int:
    try:
        return main(command)
    except SystemExit as stop:  # argparse's
        return stop.code


def check(said: str, words: tuple[str, ...], lines: int = 1) -> None:
    assert said.startswith("error: ")
    assert [word for word in words if word not in said] == []
    assert len(said.splitlines()) == lines
    assert "Traceback" not in said


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_loses_nothing(name, place, capfd):
    make, words, lines = CASES[name]
    command = make(place)
    before = {folder: tree(folder) for folder in place.seen}
    capfd.readouterr()
    code = status(command)
    check(capfd.readouterr().err, words, lines)
    assert code == 2
    for folder, files in before.items():
        after = tree(folder)
        assert {path for path, mark in files.items() if after.get(path) != mark} == set()
        assert [path for path in after if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "name", ["key iacma.lr=1e-5", "the world's root is a user's folder", "search with a picture that is a bomb",
             "no such command"],
)  # fmt: skip
def test_a_shell_sees_the_same(name, place):
    make, words, lines = CASES[name]
    done = subprocess.run([sys.executable, "-m", "tmcir_lite", *make(place)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    check(done.stderr, words, lines)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda path: os.kill(os.getpid(), signal.SIGKILL), ("clip4cir", "killed", "data.workers")),
        (lambda path: load_image(path.with_name("gone.png")), ("gone.png: no such file",)),
    ],
)
def test_what_befalls_a_process_that_reads_ahead_is_one_line(fault, words, place, capfd):
    """As when memory runs out, or a picture goes while it is trained on."""
    place.monkeypatch.setattr(
        "tmcir_lite.data.picture_cache.load_image",
        lambda path: fault(path) if torch.utils.data.get_worker_info() else load_image(path),
    )
    assert main(place.stage("clip4cir", "clip4cir.encoders=both", "data.workers=1")) == 2
    check(capfd.readouterr().err, words)


def test_a_manifest_that_was_tampered_with_costs_what_it_says_no_more(place):
    """A line that is none, and a picture that is gone: their batches are drawn again, and all is as it was."""

    def damage(run: Path) -> None:
        path = run / "pseudo_targets" / "manifest.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], "[]", "{", *lines[2:], "{}"]) + "\n")
        (run / "pseudo_targets" / f"{json.loads(lines[5])['id']}.png").unlink()

    run = place.run(damage)
    assert main(place.stage("pseudo-targets")) == 0
    for path in (place.cfg.run_dir / "pseudo_targets").iterdir():
        assert path.read_bytes() == (run / "pseudo_targets" / path.name).read_bytes()
