"""Was the intent met? Measured where every picture's attributes are known: on the garment world."""

from collections.abc import Mapping, Sequence

from tmcir_lite.data.garments import ATTRIBUTES, Garment
from tmcir_lite.data.layouts import Triplet

MEASURES = ("changed", "kept", "visual bias", "text bias")


def verdict(
    reference: Garment, target: Garment, found: Garment
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The attributes asked for, those of them that the answer misses, and the others that it does not keep.

    Asked for is what differs between reference and target.
    """
    asked, wrong = reference.differences(target), target.differences(found)
    return asked, tuple(a for a in wrong if a in asked), tuple(a for a in wrong if a not in asked)


def intent(triplets: Sequence[Triplet], answers: Sequence[str], known: Mapping[str, Garment]) -> dict[str, float]:
    """What the first answers to some queries make of what was asked, in %, averaged over the queries.

    - `changed`: the share of the attributes asked for that the answer has.
    - `kept`: the share of the others that are still the reference's.
    - `visual bias`: queries with an answer that keeps all of the others, but misses something asked for: it returns the
      reference's look.
    - `text bias`: queries with an answer that has all that was asked for, but lost something else: it forgets the
      reference.

    `verdict` says what was asked for.

    Args:
        answers: for each triplet the name of the image ranked first.
        known: image name -> the garment it shows.
    """
    sums = dict.fromkeys(MEASURES, 0.0)
    for triplet, answer in zip(triplets, answers, strict=True):
        asked, missed, lost = verdict(*(known[n] for n in (triplet.reference_name, triplet.target_name, answer)))
        sums["changed"] += 1 - len(missed) / len(asked)
        sums["kept"] += 1 - len(lost) / (len(ATTRIBUTES) - len(asked))
        sums["visual bias"] += bool(missed) and not lost
        sums["text bias"] += bool(lost) and not missed
    return {name: 100 * total / len(triplets) for name, total in sums.items()}
