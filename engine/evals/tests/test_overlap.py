"""Overlap between datasets, by question."""

from hypothesis import given
from hypothesis import strategies as st

from engine.evals.overlap import overlap
from engine.jobs.rows import Row


def row(line, question, *, system="S", answer="a"):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return Row(line, {"messages": [*messages, {"role": "assistant", "content": answer}]})


WORDS = st.lists(st.text("abcxyzß", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join)


@given(st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=8))
def test_it_counts_rows_whose_question_stands_on_the_other_side(questions, others):
    found = overlap(
        [row(i + 1, text) for i, text in enumerate(questions)],
        [row(i + 1, f"  {text.upper()}\n".replace(" ", "  "), system="T", answer="b") for i, text in enumerate(others)],
    )
    theirs = {text.casefold() for text in others} | {text.upper().casefold() for text in others}
    assert found.shared == sum(text.casefold() in theirs for text in questions)
    assert (found.rows, found.other_rows) == (len(questions), len(others))
    assert len(found.examples) == min(10, found.shared)
    for mine, other in found.examples:
        assert questions[mine - 1].casefold() == others[other - 1].casefold()


def test_another_question_or_other_earlier_turns_are_not_shared():
    long = Row(1, {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]})
    assert overlap([long], [row(1, "b"), row(2, "a")]).shared == 0
    assert overlap([long], [long]).examples == [(1, 1)]
