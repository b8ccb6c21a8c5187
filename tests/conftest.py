"""A tiny CLIP and a tiny editor with random weights, of the same classes as the lite ones, for the tests to run on."""

import hypothesis
import open_clip
import pytest
import torch

from tmcir_lite.config import load_config
from tmcir_lite.io.files import write_json
from tmcir_lite.pretrain import clip, contrast, editor
from tmcir_lite.pretrain.autoencoder import build_autoencoder
from tmcir_lite.pretrain.tokenizer import train_tokenizer
from tmcir_lite.pretrain.worlds import garments
from tmcir_lite.run import measure, stages

hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """An open_clip folder: ViT of 2 layers, width 32."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(16)
    tokenizer.save_pretrained(folder)
    model = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {
            "context_length": 16, "width": 32, "heads": 2, "layers": 1, "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "here",
        },
    }  # fmt: skip
    write_json(folder / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": contrast.PREPROCESS})
    torch.manual_seed(0)
    contrast.finish(clip.Pretraining(open_clip.create_model(f"local-dir:{folder}", load_weights=False)), folder)
    return folder


@pytest.fixture(scope="session")
def editor_folder(tmp_path_factory):
    """The lite editor's own classes and sizes, untrained."""
    folder = tmp_path_factory.mktemp("editor")
    tokenizer = train_tokenizer(16)
    torch.manual_seed(0)
    vae, scheduler = build_autoencoder(), editor.build_scheduler()
    reader = garments.READER(128, garments.CHANNELS[-1])
    model = editor.Editing(editor.build_unet(), editor.build_text_encoder(tokenizer), vae, scheduler, reader)
    editor.assemble(model, vae, tokenizer, scheduler).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, clip_folder, editor_folder):
    """Changes to the lite profile: a tiny world, the untrained models, few steps."""
    root = tmp_path_factory.mktemp("run")
    return [
        f"runs={root}", "name=tiny", "device=cpu", f"garments.root={root}/world", f"data.root={root}/world/fashioniq",
        f"data.also_evaluate=[{{layout: cirr, root: {root}/world/cirr}}]", "garments.train=60", "garments.val=9",
        "garments.gallery=8", "garments.cirr_train=20", "garments.cirr_val=20",
        f"backbone.name=local-dir:{clip_folder}", f"editor.model={editor_folder}", "editor.steps=1",
        "iacma.epochs=1", "iacma.batch=8", "atf.epochs=2", "atf.batch=8",
        *(f"{rival}.{key}" for rival in ("clip4cir", "combiner", "pic2word") for key in ("epochs=1", "batch=8")),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def cfg(tiny):
    """A finished run with `tiny`."""
    cfg = load_config("lite", tiny)
    stages.make_pseudo_targets(cfg)
    stages.train_iacma(cfg)
    stages.train_atf(cfg)
    stages.train_control(cfg)
    stages.train_sum(cfg)
    stages.train_clip4cir(cfg)
    stages.train_pic2word(cfg)
    measure.evaluate(cfg)
    return cfg
