"""What every answer has in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncgen.serve.wire import ApiError, new_id, page_of


@given(count=st.integers(0, 60), limit=st.integers(1, 25))
def test_pages_give_every_item_once_and_in_order(count: int, limit: int) -> None:
    items = [f"id-{number}" for number in range(count)]
    seen: list[str] = []
    query = {"limit": str(limit)}
    while True:
        page = page_of(items, query, default_limit=20, identify=str)
        assert len(page.data) <= limit
        seen += page.data
        if not page.has_more:
            break
        assert page.last_id is not None
        query["after"] = page.last_id
    assert seen == items


def test_first_page_has_the_default_length() -> None:
    page = page_of([str(number) for number in range(30)], {}, default_limit=20, identify=str)
    assert (len(page.data), page.has_more, page.first_id, page.last_id) == (20, True, "0", "19")


def test_ids_have_their_prefix_and_differ() -> None:
    assert len({new_id("file-") for _ in range(1000)}) == 1000
    assert len(new_id("file-")) == len("file-") + 24


def test_error_has_all_four_fields() -> None:
    error = ApiError(400, "No.", param="x")
    assert error.body() == {
        "error": {"message": "No.", "type": "invalid_request_error", "param": "x", "code": None},
    }
