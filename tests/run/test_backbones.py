"""An open_clip model gives the same pooled features here as by itself, tokens in the same space, and saves itself."""

import shutil

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tmcir_lite.io.files import ROOT, InputError, read_json, write_json
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.run.backbones import hub_id, load_backbone

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
    assert text.tokens.shape == (3, backbone.context, backbone.dim)  # the third text is cut off at the end
    # CLIP pools a text at its end token: the last valid token is the pooled feature itself.
    for row in range(3):
        torch.testing.assert_close(text.tokens[row, text.mask[row]][-1], text.pooled[row])


@torch.no_grad()
def test_a_text_ends_with_the_longest_of_its_batch_and_says_the_same(backbone):
    alone, beside = (backbone.text(backbone.tokenize(texts)) for texts in (["is red"], ["is red", TEXTS[2]]))
    assert alone.tokens.shape == (1, 4, backbone.dim)
    torch.testing.assert_close(alone.pooled[0], beside.pooled[0])
    torch.testing.assert_close(alone.tokens[0], beside.tokens[0, :4])


def test_mask_covers_words_and_end_but_not_padding(backbone):
    assert backbone.words("is red") == ["is", "red", "<|endoftext|>"]
    mask = backbone.text_mask(backbone.tokenizer(["is red"]))
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


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Random weights of a small built-in architecture that has no QuickGELU twin, as a file."""
    path = tmp_path_factory.mktemp("file") / "weights.safetensors"
    torch.manual_seed(1)
    save_file(open_clip.create_model("ViT-S-32-alt").state_dict(), path)
    return path


def test_a_weight_file_gives_its_weights(file):
    backbone, weights = load_backbone("ViT-S-32-alt", str(file)), load_file(file)
    assert all(torch.equal(value, weights[name]) for name, value in backbone.clip.state_dict().items())


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14", "ViT-H-14"])
def test_a_weight_file_of_unsaid_activation_is_refused(file, name):
    with pytest.raises(InputError, match=f"does not say its activation: write backbone.name: {name}-quickgelu"):
        load_backbone(name, str(file))


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-S-32", "ViT-S-16-alt"])
def test_a_weight_file_of_another_architecture_is_one_clear_line(file, name):
    with pytest.raises(InputError, match=f"{name} .*weights.safetensors.*Error.*load.*state_dict") as caught:
        load_backbone(name, str(file))
    assert "\n" not in str(caught.value)


def test_positions_of_another_size_are_not_stretched(file, tmp_path):
    """open_clip's own loader would resize them and say nothing."""
    weights = load_file(file)
    weights["visual.positional_embedding"] = weights["visual.positional_embedding"][:17].clone()
    save_file(weights, tmp_path / "smaller.safetensors")
    with pytest.raises(InputError, match="positional_embedding"):
        load_backbone("ViT-S-32-alt", str(tmp_path / "smaller.safetensors"))


@pytest.mark.parametrize(
    ("section", "key", "other"), [("text_cfg", "context_length", 8), ("vision_cfg", "image_size", 96)]
)
def test_nor_are_those_of_a_folder(clip_folder, tmp_path, section, key, other):
    folder = shutil.copytree(clip_folder, tmp_path / "folder")
    config = read_json(folder / "open_clip_config.json")
    config["model_cfg"][section][key] = other
    write_json(folder / "open_clip_config.json", config)
    whole = {name: value.float() for name, value in load_file(folder / "open_clip_model.safetensors").items()}
    save_file(whole, folder / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=f"asks for .*positional_embedding.* correct its .*{key}"):
        load_backbone(f"local-dir:{folder}")


@pytest.mark.parametrize("kept", [0, 5, 10_000])
def test_a_weight_file_that_is_not_whole_is_one_clear_line(file, tmp_path, kept):
    path = tmp_path / "part.safetensors"
    path.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match="part.safetensors: not a whole safetensors file"):
        load_backbone("ViT-S-32-alt", str(path))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_a_pickle_is_never_read(tmp_path, suffix):
    path = tmp_path / f"tuned_clip{suffix}"
    torch.save({"CLIP": {"logit_scale": torch.ones(())}, "epoch": 3}, path)
    with pytest.raises(InputError, match="only safetensors are read.*data/README.md converts"):
        load_backbone("ViT-B-32-quickgelu", str(path))


def test_the_documented_lines_convert_a_fine_tuned_checkpoint(file, tmp_path, monkeypatch):
    """A checkpoint as CLIP4Cir's training leaves it."""
    text = (ROOT / "data" / "README.md").read_text()
    (code,) = (part.split("```")[0] for part in text.split("```python\n")[1:] if "tuned_clip" in part)
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 3, "CLIP": load_file(file)}, "tuned_clip.pt")
    exec(f"import torch, safetensors.torch\n{code}", {})
    backbone = load_backbone("ViT-S-32-alt", str(tmp_path / "tuned_clip.safetensors"))
    assert all(torch.equal(value, load_file(file)[name]) for name, value in backbone.clip.state_dict().items())


def test_a_folder_in_the_place_of_a_file_says_how_to_name_it(tmp_path):
    with pytest.raises(InputError, match=f"write backbone.name: local-dir:{tmp_path} and null"):
        load_backbone("ViT-B-32", str(tmp_path))


def test_random_weights_are_never_started_from(clip_folder):
    with pytest.raises(InputError, match="null would start ViT-B-32 from random weights; name a tag .openai, "):
        load_backbone("ViT-B-32")
    with pytest.raises(InputError, match="brings weights of its own; write null"):
        load_backbone(f"local-dir:{clip_folder}", "openai")


def test_a_hub_name_without_a_network_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"hf-hub:laion/CLIP cannot be loaded.*cannot be reached.*download laion/CLIP"):
        load_backbone("hf-hub:laion/CLIP")


def test_a_hub_model_whose_weights_cannot_be_had_is_not_started_at_random(monkeypatch):
    """open_clip itself would go on with random ones after a warning."""

    def refuse(*_, **__):
        raise FileNotFoundError("no weights")

    config = {"model_cfg": open_clip.get_model_config("ViT-S-32-alt")}
    monkeypatch.setattr("open_clip.factory._get_hf_config", lambda *_, **__: config)
    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", refuse)
    with pytest.raises(InputError, match="hf-hub:owner/name cannot be loaded: Required pretrained weights"):
        load_backbone("hf-hub:owner/name")


def test_changed_weights_are_refused(backbone, tmp_path):
    backbone.save(tmp_path)
    write_json(tmp_path / "sha256.json", {"open_clip_model.safetensors": "0" * 64})
    with pytest.raises(InputError, match="SHA-256 differs"):
        load_backbone(f"local-dir:{tmp_path}")


def trained(backbone):
    return {name for name, parameter in backbone.clip.named_parameters() if parameter.requires_grad}


def test_only_what_is_unlocked_is_trained(clip_folder):
    backbone = load_backbone(f"local-dir:{clip_folder}")
    backbone.limit(None, None)
    assert trained(backbone) == {name for name, _ in backbone.clip.named_parameters()}
    backbone.limit(image_groups=1, text_layers=0)
    left = trained(backbone)
    assert "visual.proj" in left
    assert not [
        name for name in left if name.startswith(("visual.transformer", "visual.conv1", "transformer", "token"))
    ]


def test_gradient_checkpointing_changes_no_gradient(clip_folder, pixels):
    gradients = []
    for checkpointing in (False, True):
        backbone = load_backbone(f"local-dir:{clip_folder}").train()
        backbone.limit(None, None, gradient_checkpointing=checkpointing)
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
