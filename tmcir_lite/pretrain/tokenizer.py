"""A small tokenizer of CLIP's kind: byte-level BPE, so that free wording is cut into pieces and never lost."""

import json
import random
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from tmcir_lite.data.garments import CATEGORIES, describe, relative_captions, sample_change, sample_garment

_END = "</w>"
_MERGES = 1400
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # as in CLIP
_EVERYDAY = (
    "the a an and or but with without of on in at to from for is are has have more less very same different instead "
    "like looks bit little much lot color colored print printed pattern patterned sleeve sleeves neck collar collared "
    "shirt shirts dress dresses top tops blouse tank sleeveless shorter longer lighter darker brighter bright dark "
    "plain solid stripe striped stripes dot dotted plaid checked floral logo graphic text front back button buttons "
    "fitted loose flowy tight casual formal waist belt skirt hem knee ankle chest shoulder straps length style "
    "show image picture photo dog dogs two three one person people background table white black navy teal maroon beige "
)


def train_tokenizer(context: int, corpus: Iterable[str] | None = None) -> CLIPTokenizer:
    """Learns merges on texts.

    Args:
        context: the number of token ids that a text is cut to, recorded in the tokenizer.
        corpus: the texts; None: captions of the garment world and some everyday words of the field.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix=_END))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + _MERGES, initial_alphabet=alphabet, end_of_word_suffix=_END, show_progress=False
    )
    learner.train_from_iterator(_garment_texts() if corpus is None else corpus, trainer)
    merges = _merges(learner)
    pieces = alphabet + [letter + _END for letter in alphabet]
    pieces += [a + b for a, b in merges if a + b not in set(pieces)]
    # The end token has the highest id, because open_clip pools the text where the id is highest.
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        models.BPE(vocab=vocabulary, merges=merges).save(folder)
        return CLIPTokenizer.from_pretrained(folder, model_max_length=context)


def save_both_forms(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Saves what transformers 5 reads (tokenizer.json) and what 4 needs (vocab.json, merges.txt)."""
    tokenizer.save_pretrained(folder)
    if not (folder / "vocab.json").is_file():  # 4 writes them itself
        tokenizer.backend_tokenizer.model.save(str(folder))


def kept_tokenizer(folder: Path, context: int, corpus: Iterable[str] | None = None) -> CLIPTokenizer:
    """The tokenizer in `folder`, trained now (see `train_tokenizer`) if there is none.

    Merges that are equally frequent come in another order from one training to the next, and so do their ids: a model's
    training has to go on with the tokenizer that it began with.
    """
    if not (folder / "tokenizer_config.json").is_file():
        save_both_forms(train_tokenizer(context, corpus), folder)
    return CLIPTokenizer.from_pretrained(folder)


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]


def _garment_texts() -> Iterator[str]:
    rng = random.Random(0)
    for number in range(4000):
        garment = sample_garment(rng, CATEGORIES[number % 3], pretraining=True)
        yield describe(rng, garment)
        yield from relative_captions(rng, garment, sample_change(rng, garment, rng.choice((1, 2, 3))))
    for _ in range(30):
        yield _EVERYDAY
