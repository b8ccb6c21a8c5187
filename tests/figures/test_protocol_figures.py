"""One ranked list under several protocols."""

from tmcir_lite.figures.protocol_figures import ranked_lists


def test_each_protocol_says_the_rank_of_the_target_among_what_it_ranks():
    kept = {"all": "ABCD", "masked": "BCD", "group": "CD"}
    (axis,) = ranked_lists("ABCD", kept, reference="A", target="C").axes
    texts = [text.get_text() for text in axis.texts]
    assert [text for text in texts if text.startswith("rank")] == ["rank 3", "rank 2", "rank 1"]
    assert texts.count("A\n1") == 1  # ranked where it is not masked
    assert texts.count("A") == 2  # and shown without a place elsewhere
