from hypothesis import given
from hypothesis import strategies as st

from asyncgen.view.index import NO_VALUE, Facet, Marks, bits_of, places_in


@given(st.sets(st.integers(0, 5000)))
def test_a_set_of_places_comes_back_whole(places: set[int]) -> None:
    assert places_in(bits_of(places)) == sorted(places)


@given(st.lists(st.integers(0, 400), max_size=600), st.sets(st.integers(0, 600)))
def test_counts_are_those_of_a_plain_count_however_many_values_there_are(values: list[int], chosen: set[int]) -> None:
    facet = Facet()
    for place, value in enumerate(values):
        facet.add(place, str(value))
    places = sorted(place for place in chosen if place < len(values))
    counts = dict(facet.counts(bits_of(places), places))
    assert counts == {str(value): sum(values[place] == value for place in places) for value in values}
    for value in set(values):
        assert places_in(facet.bits(str(value))) == [n for n, each in enumerate(values) if each == value]


def test_a_row_without_a_value_has_none_and_counts_nowhere() -> None:
    facet = Facet()
    facet.add(3, "late")
    assert [facet.code(place) for place in range(5)] == [NO_VALUE, NO_VALUE, NO_VALUE, 0, NO_VALUE]
    assert facet.counts(0b1111, [0, 1, 2, 3]) == [("late", 1)]
    assert facet.bits("never") == 0


def test_a_row_may_have_several_marks() -> None:
    marks = Marks()
    marks.add(0, "max_words")
    marks.add(0, "language")
    marks.add(2, "max_words")
    assert marks.counts(0b111) == [("max_words", 2), ("language", 1)]
    assert marks.names() == ["max_words", "language"]
