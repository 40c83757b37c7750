"""Facts about `max_cost` where no price is known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from asyncgen.errors import UsageError
from asyncgen.generate.journal.settled import SpendCount
from asyncgen.generate.pool.budget import Budget
from asyncgen.generate.spending import Spending
from asyncgen.run.directory import open_run
from asyncgen.run.records import Usage
from asyncgen.run.state import Spend


class Answering:
    """An observer that answers every question alike."""

    resume_command = ""

    def __init__(self, *, yes: bool) -> None:
        self.agrees_to_all = yes

    def say(self, text: str) -> None: ...

    def agree(self, question: str, *, why: str, notice: str = "") -> None:
        if not self.agrees_to_all:
            raise UsageError(why)


@pytest.mark.parametrize(("is_own", "yes", "is_demanded"), [*itertools.product((False, True), repeat=3)])
def test_a_limit_without_a_price_is_asked_about_before_the_first_request(
    tmp_path: Path, *, is_own: bool, yes: bool, is_demanded: bool
) -> None:
    with open_run(tmp_path / "run", job_name="c") as run:
        spending = Spending(None, "standard", in_batch=False, is_own=is_own)

        observer: Any = Answering(yes=yes)

        def budget() -> Budget | None:
            return spending.budget(5.0, Spend(), run.state, observer, is_demanded=is_demanded)

        if yes or (is_own and not is_demanded):
            found = budget()
            assert found is not None
            assert (found.max_cost_usd, found.must_know) == (5.0, is_demanded)
        else:
            with pytest.raises(UsageError):
                budget()


def test_costs_that_the_provider_told_are_summed_without_a_price() -> None:
    count = SpendCount(Spend(), lambda usages, in_batch: None)
    count.add(
        [Usage(1, 0, 1, cost_usd=0.25), Usage(1, 0, 1), Usage(1, 0, 1, cost_usd=0.5)], in_batch=False, is_record=True
    )
    assert (count.total.cost_usd, count.total.unpriced, count.total.records) == (0.75, 1, 3)


def test_a_told_cost_is_not_priced_a_second_time() -> None:
    count = SpendCount(Spend(), lambda usages, in_batch: 10.0 * len(usages))
    count.add([Usage(1, 0, 1, cost_usd=0.25), Usage(1, 0, 1)], in_batch=False, is_record=True)
    assert (count.total.cost_usd, count.total.unpriced) == (10.25, 0)
