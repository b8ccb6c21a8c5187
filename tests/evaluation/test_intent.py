import dataclasses

import pytest

from tmcir_lite.data.garments import Garment
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.evaluation.intent import intent, verdict

REFERENCE = Garment("tee", "red", "blue", "solid", "short", "medium", "round", "none")
TARGET = dataclasses.replace(REFERENCE, colour="green", sleeves="long")
KNOWN = {
    "reference": REFERENCE,
    "target": TARGET,
    "half": dataclasses.replace(REFERENCE, colour="green"),
    "forgets": dataclasses.replace(TARGET, pattern="dots", length="long", neckline="v"),
    "both": dataclasses.replace(REFERENCE, colour="green", graphic="star"),
}
TRIPLET = Triplet("1", "reference", "target", ("is green with long sleeves",), "toptee")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("target", [100, 100, 0, 0]),
        ("reference", [0, 100, 100, 0]),
        ("half", [50, 100, 100, 0]),
        ("forgets", [100, 50, 0, 100]),
        ("both", [50, 100 * 5 / 6, 0, 0]),
    ],
)
def test_one_answer_by_hand(answer, expected):
    assert list(intent([TRIPLET], [answer], KNOWN).values()) == pytest.approx(expected)


def test_is_averaged_over_queries():
    measures = intent([TRIPLET] * 4, ["target", "reference", "half", "forgets"], KNOWN)
    assert measures == pytest.approx({"changed": 62.5, "kept": 87.5, "visual bias": 50, "text bias": 25})


def test_verdict_names_what_was_asked_missed_and_lost():
    assert verdict(*(KNOWN[name] for name in ("reference", "target", "both"))) == (
        ("colour", "sleeves"), ("sleeves",), ("graphic",)
    )  # fmt: skip
    assert verdict(REFERENCE, TARGET, TARGET) == (("colour", "sleeves"), (), ())
