"""A tiny CLIP and a tiny editor with random weights, of the same classes as the lite ones, for the tests to run on."""

import open_clip
import pytest
import torch

from tmcir_lite.files import write_json
from tmcir_lite.pretrain import clip, editor
from tmcir_lite.pretrain.autoencoder import build_autoencoder
from tmcir_lite.pretrain.tokenizer import train_tokenizer


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
    write_json(folder / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": clip.PREPROCESS})
    torch.manual_seed(0)
    clip.finish(clip.Pretraining(open_clip.create_model(f"local-dir:{folder}", load_weights=False)), folder)
    return folder


@pytest.fixture(scope="session")
def editor_folder(tmp_path_factory):
    """The lite editor's own classes and sizes, untrained."""
    folder = tmp_path_factory.mktemp("editor")
    tokenizer = train_tokenizer(16)
    torch.manual_seed(0)
    vae, scheduler = build_autoencoder(), editor.build_scheduler()
    model = editor.Editing(editor.build_unet(), editor.build_text_encoder(tokenizer), vae, scheduler)
    editor.assemble(model, vae, tokenizer, scheduler).save_pretrained(folder, safe_serialization=True)
    return folder
