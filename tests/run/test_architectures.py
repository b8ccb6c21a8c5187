"""Of open_clip's architectures and tokenizers those are taken whose tokens and pooled features are what they seem."""

import open_clip
import pytest
import torch
from transformers import AutoTokenizer

from tmcir_lite.io.files import InputError, read_json, write_json
from tmcir_lite.method.encoders import Backbone
from tmcir_lite.run.architectures import known_architecture
from tmcir_lite.run.backbones import load_backbone

TEXTS = ["is red with longer sleeves", "is plain", "ein ganz anderes Wort: Ærø 42!"]


@pytest.fixture(scope="module")
def backbone(clip_folder):
    return load_backbone(f"local-dir:{clip_folder}").eval()


REFUSED = {  # a part of the name or of its configuration -> what the line says
    "CLIPA": "not its class token's",
    "worldwide": "not read at the highest id",
    "coca": "a decoder beside it",
    "roberta": "a Hugging Face text tower",
    "SigLIP": "timm's visual encoder",
    "RN50": "a ResNet",
    "convnext": "timm's visual encoder",
}


@pytest.mark.parametrize("name", open_clip.list_models())
def test_a_name_is_accepted_only_where_tokens_and_pooled_features_are_what_they_are_taken_for(name):
    """Of every architecture that open_clip knows, by its configuration alone."""
    config = open_clip.get_model_config(name)
    vision, text = open_clip.CLIPVisionCfg(**config["vision_cfg"]), open_clip.CLIPTextCfg(**config["text_cfg"])
    right = (
        (vision.timm_model_name, vision.attentional_pool, vision.pool_type, vision.patch_dropout)
        == (None, False, "tok", 0.0)
        and (text.hf_model_name, text.embed_cls, text.pool_type, text.proj_type) == (None, False, "argmax", "linear")
        and isinstance(vision.layers, int)
        and "multimodal_cfg" not in config
    )
    if right:
        known_architecture(name)
        assert text.hf_tokenizer_name is None  # open_clip's own gives the end token the highest id
        assert type(open_clip.get_tokenizer(name)) is open_clip.SimpleTokenizer
        assert not any(part in name for part in REFUSED)
        return
    with pytest.raises(InputError, match=f"^backbone.name: {name} has .*; what is needed is") as caught:
        load_backbone(name, "openai")
    assert "\n" not in str(caught.value)
    for part, words in REFUSED.items():
        assert part not in name or words in str(caught.value)


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "ViT-B-16-plus-240", "ViT-L-14-336-quickgelu", "ViT-H-14", "ViT-bigG-14-quickgelu", "ViT-g-14"]
)
def test_the_usual_names_are_accepted(name):
    assert known_architecture(name) == open_clip.get_model_config(name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ViT-S-32-alt", "ViT-B-16-plus-240", "ViT-L-14-280", "ViT-H-14-quickgelu"])
def test_pooled_features_are_those_of_class_and_end_token(name):
    config = known_architecture(name)
    config["vision_cfg"] |= {"layers": 2, "width": 32, "head_width": 16}
    config["text_cfg"] |= {"layers": 2, "width": 32, "heads": 2}
    clip = open_clip.CLIP(**config | {"embed_dim": 16}).eval()
    backbone = Backbone(clip, open_clip.get_tokenizer(name), config, 1.25)
    visual, size = clip.visual, config["vision_cfg"]["image_size"]
    pixels = torch.randn(2, 3, size, size)
    out = visual.forward_intermediates(pixels, indices=1, normalize_intermediates=True, output_extra_tokens=True)
    torch.testing.assert_close(backbone.image(pixels).pooled, out["image_intermediates_prefix"][-1][:, 0] @ visual.proj)
    text = backbone.text(backbone.tokenize(TEXTS))
    for row in range(3):
        torch.testing.assert_close(text.tokens[row, text.mask[row]][-1], text.pooled[row])


@pytest.mark.parametrize(
    "change",
    [
        {"vision_cfg": {"pool_type": "avg"}},
        {"vision_cfg": {"attentional_pool": "parallel"}},
        {"vision_cfg": {"patch_dropout": 0.5}},
        {"vision_cfg": {"image_size": [64, 96]}},
        {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}},
        {"text_cfg": {"pool_type": "last"}},
        {"text_cfg": {"pool_type": "eos", "eos_id": 2}},
        {"text_cfg": {"embed_cls": True}},
        {"text_cfg": {"proj_type": "none"}},
        {"text_cfg": {"hf_model_name": "roberta-base"}},
    ],
)
def test_a_folder_of_a_refused_kind_is_refused_too(backbone, tmp_path, change):
    backbone.save(tmp_path)
    config = read_json(tmp_path / "open_clip_config.json")
    ((section, values),) = change.items()
    config["model_cfg"][section] |= values
    write_json(tmp_path / "open_clip_config.json", config)
    key = f"{section}.{next(iter(values))}"
    with pytest.raises(InputError, match=key):
        load_backbone(f"local-dir:{tmp_path}")


def test_a_tokenizer_whose_end_token_is_not_the_highest_is_refused(backbone, tmp_path):
    backbone.save(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["[one more]"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="end token another id"):
        load_backbone(f"local-dir:{tmp_path}")


def test_a_folder_without_its_tokenizer_is_one_clear_line(backbone, tmp_path):
    backbone.save(tmp_path)
    for path in tmp_path.glob("*token*"):
        path.unlink()
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="cannot be loaded: .*tokenizer") as caught:
        load_backbone(f"local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [[], {}, {"model_cfg": {"embed_dim": 3}}, {"model_cfg": {"vision_cfg": 1}}])
def test_a_folder_with_another_configuration_is_one_clear_line(backbone, tmp_path, config):
    backbone.save(tmp_path)
    write_json(tmp_path / "open_clip_config.json", config)
    with pytest.raises(InputError, match="has no model_cfg with vision_cfg and text_cfg"):
        load_backbone(f"local-dir:{tmp_path}")
