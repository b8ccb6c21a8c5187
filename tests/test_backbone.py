"""An open_clip model gives the same pooled features here as by itself, tokens in the same space, and saves itself."""

import open_clip
import pytest
import torch
from PIL import Image

from tmcir_lite.backbone import Backbone, hub_id, load_backbone
from tmcir_lite.config import load_config
from tmcir_lite.files import InputError, write_json

TEXTS = ["is red with longer sleeves", "is plain", "ein ganz anderes Wort: Ærø 42!"]


@pytest.fixture(scope="module")
def backbone(clip_folder):
    return load_backbone(f"local-dir:{clip_folder}").eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_pooled_features_are_open_clips_own(backbone, clip_folder, pixels):
    model = open_clip.create_model(f"local-dir:{clip_folder}").eval()
    ids = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(TEXTS)
    torch.testing.assert_close(backbone.image(pixels).pooled, model.encode_image(pixels))
    torch.testing.assert_close(backbone.text(ids).pooled, model.encode_text(ids))


@torch.no_grad()
def test_tokens_stand_in_the_shared_space(backbone, pixels):
    image, text = backbone.image(pixels), backbone.text(backbone.tokenize(TEXTS))
    rows, columns = backbone.grid
    assert image.tokens.shape == (3, rows * columns, backbone.dim)
    assert text.tokens.shape == (3, backbone.context, backbone.dim)
    # CLIP pools a text at its end token: the last valid token is the pooled feature itself.
    for row in range(3):
        torch.testing.assert_close(text.tokens[row, text.mask[row]][-1], text.pooled[row])


def test_mask_covers_words_and_end_but_not_padding(backbone):
    assert backbone.words("is red") == ["is", "red", "<|endoftext|>"]
    mask = backbone.text_mask(backbone.tokenize(["is red"]))
    assert mask[0].tolist() == [False, True, True, True] + [False] * 12


@torch.no_grad()
def test_saved_and_loaded_is_the_same_model(backbone, pixels, tmp_path):
    backbone.save(tmp_path)
    again = load_backbone(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again.image(pixels).tokens, backbone.image(pixels).tokens)
    assert torch.equal(again.tokenize(TEXTS), backbone.tokenize(TEXTS))


@torch.no_grad()
def test_real_architecture_saves_and_loads_with_random_weights(tmp_path):
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    config["vision_cfg"] |= {"layers": 1}
    config["text_cfg"] |= {"layers": 1}
    write_json(tmp_path / "open_clip_config.json", {"model_cfg": config})
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    backbone = load_backbone(f"local-dir:{tmp_path}").eval()
    backbone.save(tmp_path / "again")
    again = load_backbone(f"local-dir:{tmp_path / 'again'}").eval()
    ids = backbone.tokenize(["two dogs"])
    assert again.config["model_cfg"]["quick_gelu"]
    assert torch.equal(again.text(ids).tokens, backbone.text(ids).tokens)
    assert again.image(torch.zeros(1, 3, 224, 224)).tokens.shape == (1, 49, 512)


def test_bad_names_are_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="knows no model 'ViT-Z'"):
        load_backbone("ViT-Z", None)
    with pytest.raises(InputError, match="no weights 'nonsense'; known: .*openai"):
        load_backbone("ViT-B-32", "nonsense")
    with pytest.raises(InputError, match="write backbone.name: ViT-B-32-quickgelu"):
        load_backbone("ViT-B-32", "openai")
    with pytest.raises(InputError, match="holds no open_clip_config.json"):
        load_backbone(f"local-dir:{tmp_path}")


def test_changed_weights_are_refused(backbone, tmp_path):
    backbone.save(tmp_path)
    write_json(tmp_path / "sha256.json", {"open_clip_model.safetensors": "0" * 64})
    with pytest.raises(InputError, match="SHA-256 differs"):
        load_backbone(f"local-dir:{tmp_path}")


def settings(**changes):
    return load_config("lite").backbone.model_copy(update=changes)


def trained(backbone):
    return {name for name, parameter in backbone.clip.named_parameters() if parameter.requires_grad}


def test_only_what_is_unlocked_is_trained(clip_folder):
    backbone = load_backbone(f"local-dir:{clip_folder}")
    backbone.limit_training(settings())
    assert trained(backbone) == {name for name, _ in backbone.clip.named_parameters()}
    backbone.limit_training(settings(unlocked_image_groups=1, unlocked_text_layers=0))
    left = trained(backbone)
    assert "visual.proj" in left
    assert not [
        name for name in left if name.startswith(("visual.transformer", "visual.conv1", "transformer", "token"))
    ]


def test_gradient_checkpointing_changes_no_gradient(clip_folder, pixels):
    gradients = []
    for checkpointing in (False, True):
        backbone = load_backbone(f"local-dir:{clip_folder}").train()
        backbone.limit_training(settings(gradient_checkpointing=checkpointing))
        image, text = backbone.image(pixels), backbone.text(backbone.tokenize(TEXTS))
        (image.tokens.sum() + image.pooled.square().sum() + text.tokens.square().sum()).backward()
        gradients.append([parameter.grad for parameter in backbone.clip.parameters() if parameter.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_seen_is_what_the_encoder_gets(backbone):
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    seen = backbone.seen(picture)
    assert seen.size == (64, 64)
    torch.testing.assert_close(backbone.transform(seen), backbone.transform(picture), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("name", "tag"),
    [("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-H-14", "laion2b_s32b_b79k")],
)
def test_every_family_the_profiles_name_gives_tokens(name, tag, tmp_path):
    """With the family's own patches, pixels and text, in two narrow layers of random weights."""
    assert hub_id(name, tag).startswith("laion/")
    config = open_clip.get_model_config(name)
    config["vision_cfg"] |= {"layers": 2, "width": 32, "head_width": 16}
    config["text_cfg"] |= {"layers": 2, "width": 32, "heads": 2}
    config["embed_dim"] = 16
    (tmp_path / "config").mkdir()
    write_json(tmp_path / "config" / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": {}})
    clip = open_clip.create_model(f"local-dir:{tmp_path / 'config'}", load_weights=False)
    saved = {"model_cfg": config, "preprocess_cfg": open_clip.get_model_preprocess_cfg(clip)}
    Backbone(clip, open_clip.get_tokenizer(name), saved, 1.25).save(tmp_path / "model")
    backbone = load_backbone(f"local-dir:{tmp_path / 'model'}").eval()
    with torch.no_grad():
        image = backbone.image(torch.stack([backbone.transform(Image.new("RGB", (300, 500), "red"))]))
        text = backbone.text(backbone.tokenize(TEXTS))
    rows, columns = backbone.grid
    assert (rows, columns) == (224 // config["vision_cfg"]["patch_size"],) * 2
    assert image.tokens.shape == (1, rows * columns, 16)
    torch.testing.assert_close(text.tokens[0, text.mask[0]][-1], text.pooled[0])
