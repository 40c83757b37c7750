from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from asyncgen.errors import UsageError
from asyncgen.run.directory import RunDirectory
from asyncgen.view.query import STATUSES, Query
from asyncgen.view.runs import RunView

MakeRun = Callable[..., Any]


def view_of(directory: RunDirectory) -> RunView:
    view = RunView(directory, "adverts")
    view.read_all()
    return view


def found(view: RunView, **parameters: list[str]) -> list[int]:
    with view.in_turn():
        return [view.index.row(place).index for place in view.find(Query.of(parameters)).places]


def test_values_of_a_facet_are_alternatives_and_facets_restrict_each_other(make_run: MakeRun) -> None:
    view = view_of(make_run(rows=18).directory)
    assert len(found(view, **{"axis.city": ["Paris", "Berlin"]})) == 12
    assert found(view, **{"axis.city": ["Paris"], "axis.size": ["large"]}, sort=["oldest"]) == [9, 10, 11]
    assert found(view, **{"axis.city": ["Rome"]}) == []
    assert found(view, **{"axis.nonsense": ["Rome"]}) == []


def test_the_count_of_a_value_is_what_choosing_it_leads_to(make_run: MakeRun) -> None:
    view = view_of(make_run(rows=18).directory)
    with view.in_turn():
        facets = view.find(Query.of({"axis.city": ["Paris"], "axis.size": ["large"]})).facets
    assert dict(facets["axis.city"]) == {"Brussels": 3, "Paris": 3, "Berlin": 3}
    assert dict(facets["axis.size"]) == {"small": 3, "large": 3}
    assert dict(facets["status"]) == {"done": 3, "failed": 0, "rejected": 0, "stale": 0}


@pytest.mark.parametrize(
    ("sort", "first"), [("newest", 17), ("oldest", 0), ("grid", 0), ("slowest", 17), ("longest", 17), ("shortest", 0)]
)
def test_orders(make_run: MakeRun, sort: str, first: int) -> None:
    run = make_run()
    run.add(*(run.record(number, "x" * (number + 1)) for number in range(18)))
    assert found(view_of(run.directory), sort=[sort])[0] == first


def test_an_unknown_order_is_told() -> None:
    with pytest.raises(UsageError):
        Query.of({"sort": ["random"]})


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("TULIP", [0]),
        ("tulip bulbs", [0]),
        ('say "yes"', [1]),
        ("back\\slash", [2]),
        ("straße", [3]),
        ("STRASSE", [3]),
        ("two\nlines", [4]),
        ("completion_tokens", []),
        ("request_id", []),
        ("thought deeply", [5]),
        ("broke down", [6]),
    ],
)
def test_a_search_finds_what_an_answer_says_and_not_how_it_is_written(
    make_run: MakeRun, text: str, rows: list[int]
) -> None:
    run = make_run()
    texts = ["Tulip bulbs!", 'Just say "yes".', "back\\slash", "In der Straße", "two\nlines"]
    run.add(*(run.record(number, each) for number, each in enumerate(texts)))
    run.add(run.record(5, reasoning="It thought deeply."), run.failure(6, "The line broke down."))
    assert found(view_of(run.directory), search=[text]) == rows


def test_a_search_finds_rows_that_came_after_it_was_asked_first(make_run: MakeRun) -> None:
    run = make_run(rows=2)
    view = view_of(run.directory)
    assert found(view, search=["number 2,"]) == []
    run.add(run.record(2))
    assert found(view, search=["number 2,"]) == [2]


def test_statuses_tell_failed_rejected_and_stale_rows_apart(make_run: MakeRun) -> None:
    run = make_run(rows=2)
    run.add(
        run.record(2, check_failures=["max_words"]),
        run.record(3, finish_reason="length"),
        run.failure(4),
        run.record(5, key="ab" * 16),
    )
    run.change_state(job=msgspec.structs.replace(run.directory.read_state().job, stale=1))
    view = view_of(run.directory)
    statuses = {status: found(view, status=[status], sort=["oldest"]) for status in STATUSES}
    assert statuses == {"done": [0, 1], "failed": [4], "rejected": [2, 3], "stale": [5]}
    assert found(view, check=["max_words"]) == [2]
    assert found(view, check=["truncated"]) == [3]


def test_rows_of_an_axis_with_thousands_of_values_are_found_and_counted(make_run: MakeRun) -> None:
    run = make_run()
    run.add(*(run.record(n % 18, key=f"{n:032x}", variables={"city": f"city {n}"}, index=n) for n in range(600)))
    view = view_of(run.directory)
    with view.in_turn():
        result = view.find(Query.of({"axis.city": ["city 577"]}))
    assert len(result.places) == 1
    assert result.truncated == ["axis.city"]
    assert ("city 577", 1) in result.facets["axis.city"]
    assert len(result.facets["axis.city"]) == 101
