"""Overlap between datasets, by question."""

from hypothesis import given
from hypothesis import strategies as st

from engine.evals.overlap import MAX_PAIRS, overlap
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
    assert len(found.pairs) == found.shared and not any(pair.same_answer for pair in found.pairs)
    for pair in found.pairs:
        mine = questions[pair.line - 1]
        same = [number for number, text in enumerate(others, 1) if text.casefold() == mine.casefold()]
        assert [pair.other_line, *pair.also_other_lines] == same and pair.prompt == mine


def test_another_question_or_other_earlier_turns_are_not_shared():
    long = Row(1, {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]})
    assert overlap([long], [row(1, "b"), row(2, "a")]).shared == 0
    (pair,) = overlap([long], [long]).pairs
    assert (pair.line, pair.other_line, pair.prompt, pair.same_answer) == (1, 1, "b", True)


def test_more_pairs_than_are_listed_are_counted():
    many = [row(number, f"q {number}") for number in range(MAX_PAIRS + 7)]
    found = overlap(many, many)
    assert (found.shared, len(found.pairs), found.pairs_omitted) == (MAX_PAIRS + 7, MAX_PAIRS, 7)
    assert len(overlap([row(1, "word " * 500)], [row(2, "word " * 500)]).pairs[0].prompt) == 120
