"""Was the intent met? Measured where it is known what every picture shows: in drawn worlds."""

from collections.abc import Mapping, Sequence

from tmcir_lite.data.garments import ATTRIBUTES, Garment
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.data.scenes import Scene

MEASURES = ("changed", "kept", "visual bias", "text bias")
Verdict = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def verdict(reference: Garment | Scene, target: Garment | Scene, found: Garment | Scene) -> Verdict:
    """The attributes asked for, those of them that the answer misses, and the others that it does not keep.

    Asked for is what differs between reference and target: attributes of a garment, slots of a scene.
    """
    asked, wrong = reference.differences(target), target.differences(found)
    return asked, tuple(a for a in wrong if a in asked), tuple(a for a in wrong if a not in asked)


def intent(
    triplets: Sequence[Triplet], answers: Sequence[str], known: Mapping[str, Garment | Scene]
) -> dict[str, float]:
    """What the first answers to some queries make of what was asked, in %, averaged over the queries.

    - `changed`: of garments the share of the attributes asked for that the answer has; of scenes whether the edit is
      done.
    - `kept`: of garments the share of the others that are still the reference's; of scenes whether all the rest is.
    - `visual bias`: queries with an answer that keeps all of the others, but misses something asked for: it returns the
      reference's look.
    - `text bias`: queries with an answer that has all that was asked for, but lost something else: it forgets the
      reference.

    `verdict` says what was asked for.

    Args:
        answers: for each triplet the name of the image ranked first.
        known: image name -> what it shows.
    """
    sums = dict.fromkeys(MEASURES, 0.0)
    for triplet, answer in zip(triplets, answers, strict=True):
        shown = [known[name] for name in (triplet.reference_name, triplet.target_name, answer)]
        asked, missed, lost = verdict(*shown)
        if isinstance(shown[0], Scene):
            changed, kept = not missed, not lost
        else:
            changed, kept = 1 - len(missed) / len(asked), 1 - len(lost) / (len(ATTRIBUTES) - len(asked))
        sums["changed"] += changed
        sums["kept"] += kept
        sums["visual bias"] += bool(missed) and not lost
        sums["text bias"] += bool(lost) and not missed
    return {name: 100 * total / len(triplets) for name, total in sums.items()}
