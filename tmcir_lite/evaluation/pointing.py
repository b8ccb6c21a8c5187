"""Where words point: whether a word that names a thing has its best patch on it, in the world of scenes."""

from collections.abc import Sequence

from torch import Tensor

from tmcir_lite.data.scenes import WORDS, SceneQuery


def naming_words(words: Sequence[str], query: SceneQuery) -> list[tuple[int, int]]:
    """The words of a text that name something seen in the reference: (number among the words, place of the thing).

    Only shape, colour and size name; a thing that is to be added is not there yet.

    Args:
        words: the text tokens, as `Backbone.words` gives them. A word that is split into several is left out.
    """
    if query.kind == "add":
        return []
    found, start = [], 0
    for place, named in zip(query.places, query.named, strict=True):
        for look in ("size", "colour", "shape"):  # the order in which a noun phrase says them
            said = [n for n in range(start, len(words)) if words[n] in WORDS.get(named.get(look), ())]
            if said:
                found.append((said[0], place))
                start = said[0] + 1
    return found


def place_of_patch(patch: int, grid: tuple[int, int]) -> int:
    """The place, 0 to 8 row by row, in which the middle of a patch lies; patches count row by row as well."""
    row, column = divmod(patch, grid[1])
    return 3 * (3 * (2 * row + 1) // (2 * grid[0])) + 3 * (2 * column + 1) // (2 * grid[1])


def pointing(
    best: Sequence[Tensor], words: Sequence[Sequence[str]], queries: Sequence[SceneQuery], grid: tuple[int, int]
) -> list[bool]:
    """Of every naming word of some queries, whether its best patch lies on the thing that it names.

    The share of True is the *pointing accuracy*; by chance a patch in nine lies at the right place.

    Args:
        best: for each query the best patch of each of its words (`atf.Match.index` where its `text_mask` holds).
        words: for each query its words, as many.
    """
    return [
        place_of_patch(int(patches[number]), grid) == place
        for patches, text, query in zip(best, words, queries, strict=True)
        for number, place in naming_words(text, query)
    ]
