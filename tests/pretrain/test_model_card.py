"""Weight folders carry a card and hashes; a damaged one is refused."""

import pytest

from tmcir_lite.io.files import InputError, check_hashes
from tmcir_lite.pretrain.model_card import publish_folder


@pytest.fixture
def published(tmp_path):
    made, work = tmp_path / "made", tmp_path / "work"
    made.mkdir()
    work.mkdir()
    (made / "weights.safetensors").write_bytes(b"12345")
    (made / "config.json").write_text("{}")
    (made / "merges.txt").write_text("#version: 0.2\n")
    (work / "history.csv").write_text("epoch,loss\n1,0.5\n")
    out = tmp_path / "models" / "tiny"
    out.mkdir(parents=True)
    (out / "stale.txt").write_text("of an earlier model")
    publish_folder(made, out, work, "Tiny", {"samples seen": 12}, {"Measured": "| R@1 |"})
    return out


def test_the_card_says_what_was_given_and_lists_every_file_with_its_hash(published):
    card = (published / "README.md").read_text()
    assert "# Tiny" in card
    assert "**samples seen**: 12" in card
    assert "| weights.safetensors | 5 | `5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5` |" in card
    assert (published / "training_log.csv").read_text() == "epoch,loss\n1,0.5\n"


def test_publishing_replaces_what_was_there(published):
    assert not (published / "stale.txt").exists()
    check_hashes(published)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "merges.txt"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_weight_or_tokenizer_file_is_named(published, damage, name):
    if damage == "changed":
        (published / name).write_bytes(b"1234X")
    else:
        (published / name).unlink()
    with pytest.raises(InputError, match=rf"{name}.*retrain"):
        check_hashes(published)


def test_a_folder_without_hashes_is_not_checked(tmp_path):
    check_hashes(tmp_path)
