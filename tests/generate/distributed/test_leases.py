"""Leases: whatever is lost or late, the holders together never pass the limits of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from asyncgen.generate.distributed.leases import Lease, LeaseBook, Need, fair_shares, most_holders

LASTS_S = 5.0
BUDGET_USD = 10.0


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 2) | st.just(math.inf), max_size=8))
def test_a_fair_division_gives_out_all_and_no_more(wanted: dict[str, float]) -> None:
    shares = fair_shares(wanted)
    assert sum(shares.values()) == pytest.approx(1.0 if any(wanted.values()) else 0.0)
    for name, share in shares.items():
        assert share >= 0
        assert wanted[name] > 0 or share == 0
        if all(other >= wanted[name] for other in wanted.values()) and sum(map(bool, wanted.values())) > 1:
            assert share <= max(wanted[name], 1.0)


def test_who_uses_little_leaves_the_rest_to_those_that_wait() -> None:
    assert fair_shares({"slow": 0.1, "one": math.inf, "two": math.inf}) == pytest.approx(
        {"slow": 0.1, "one": 0.45, "two": 0.45}
    )


def test_the_share_of_a_dead_holder_is_given_to_others_only_when_its_lease_has_ended() -> None:
    book = LeaseBook(lasts_s=LASTS_S, budget_usd=None)
    for name in ("a", "b"):
        book.enter(name)
    first = book.lease("a", 1, 0.0, 0.0, most_holders=2)
    assert (first.share, book.lease("b", 1, 0.0, 0.0, most_holders=2).share) == (0.5, 0.5)
    book.lose("a")
    book.heard("b", 1, Need())
    assert book.lease("b", 2, 4.0, 4.0, most_holders=2).share == 0.5
    book.heard("b", 2, Need())
    assert book.lease("b", 3, 5.1, 5.1, most_holders=2).share == 1.0


def test_a_slow_rate_is_not_divided_among_more_than_can_use_it() -> None:
    book = LeaseBook(lasts_s=LASTS_S, budget_usd=None)
    for name in ("a", "b", "c"):
        book.enter(name)
    shares = {name: book.lease(name, 1, 0.0, 0.0, most_holders=1).share for name in ("a", "b", "c")}
    assert shares == {"a": 1.0, "b": 0.0, "c": 0.0}
    book.heard("a", 1, Need(is_idle=True))
    assert book.lease("a", 2, 1.0, 1.0, most_holders=1).share == 0.0
    book.heard("a", 2, Need(is_idle=True))
    assert book.lease("b", 2, 1.1, 1.1, most_holders=1).share == 1.0


@pytest.mark.parametrize(
    ("requests", "tokens", "most"), [(None, None, 8), (60, None, 1), (600, None, 8), (300, None, 4), (None, 4000, 2)]
)
def test_so_many_have_a_share_as_can_use_one(requests: float | None, tokens: float | None, most: int) -> None:
    assert most_holders(8, requests, tokens, 1000) == most


def test_money_that_pays_for_no_request_of_one_holder_is_given_to_another() -> None:
    book = LeaseBook(lasts_s=LASTS_S, budget_usd=1.0)
    for name in ("a", "b"):
        book.enter(name)
        book.heard(name, 0, Need(wants_usd=0.5, next_usd=0.1))
        assert book.lease(name, 1, 0.0, 0.0, most_holders=2).usd == pytest.approx(0.5)
    for name in ("a", "b"):
        book.heard(name, 1, Need(spent_usd=0.44, wants_usd=0.5, next_usd=0.1))
    assert book.lease("a", 2, 1.0, 1.0, most_holders=2).usd == pytest.approx(0.44), "0.06 would pay for nothing"
    assert not book.is_spent(1.0)
    book.heard("a", 2, Need(spent_usd=0.44, wants_usd=0.5, next_usd=0.1))
    assert book.lease("b", 2, 1.0, 1.0, most_holders=2).usd == pytest.approx(0.56)
    book.heard("b", 2, Need(spent_usd=0.54, wants_usd=0.5, next_usd=0.1))
    assert book.lease("b", 3, 2.0, 2.0, most_holders=2).usd == pytest.approx(0.54)
    assert book.lease("a", 3, 2.0, 2.0, most_holders=2).usd == pytest.approx(0.44)
    assert book.is_spent(2.0)


def test_a_holder_that_is_not_heard_may_have_spent_all_that_it_was_granted() -> None:
    book = LeaseBook(lasts_s=LASTS_S, budget_usd=1.0)
    for name in ("a", "b"):
        book.enter(name)
        book.heard(name, 0, Need(wants_usd=0.8, next_usd=0.1))
    assert book.lease("a", 1, 0.0, 0.0, most_holders=2).usd == pytest.approx(0.8)
    assert book.lease("b", 1, 0.0, 10 * LASTS_S, most_holders=2).usd == pytest.approx(0.2)
    assert book.lose("a", most_usd=0.3) == pytest.approx(0.3), "by what is known of its rows"
    book.heard("b", 1, Need(wants_usd=0.8, next_usd=0.1))
    assert book.lease("b", 2, 0.0, 10 * LASTS_S, most_holders=2).usd == pytest.approx(0.7)


@dataclass
class Holder:
    """A holder as it is: it keeps to the last lease that reached it, until its end by its own clock."""

    number: int = 0  # of the last lease that was sent
    on_its_way: Lease | None = None
    kept: Lease | None = None
    heard_at: float = 0.0
    spent_usd: float = 0.0
    is_lost: bool = False
    needs: list[Need] = field(default_factory=list)

    def share(self, now: float) -> float:
        return self.kept.share if self.kept is not None and self.kept.ends > now else 0.0


class LeasesMachine(RuleBasedStateMachine):
    """Holders come, are heard, get leases late or never, spend what they may, and die."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.book = LeaseBook(lasts_s=LASTS_S, budget_usd=BUDGET_USD)
        self.holders: dict[str, Holder] = {}

    @rule()
    def enter(self) -> None:
        name = str(len(self.holders))
        self.book.enter(name)
        self.holders[name] = Holder(heard_at=self.now)

    @rule(seconds=st.floats(0.01, 3.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data(), waits=st.booleans(), idle=st.booleans(), used=st.floats(0, 1), wants=st.floats(0, 5))
    def exchange(self, data: st.DataObject, waits: bool, idle: bool, used: float, wants: float) -> None:
        """The holder tells which lease it keeps to, and is sent a new one."""
        present = [name for name, holder in self.holders.items() if not holder.is_lost and holder.on_its_way is None]
        if not present:
            return
        name = data.draw(st.sampled_from(present))
        holder = self.holders[name]
        holder.heard_at = self.now
        number = holder.kept.number if holder.kept else 0
        next_usd = min(wants, 0.5)
        need = Need(waits, idle, used, spent_usd=holder.spent_usd, wants_usd=wants, next_usd=next_usd)
        self.book.heard(name, number, need)
        holder.number += 1
        most = data.draw(st.integers(1, 4))
        holder.on_its_way = self.book.lease(name, holder.number, holder.heard_at, self.now, most_holders=most)

    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        coming = [name for name, holder in self.holders.items() if holder.on_its_way is not None]
        if coming:
            holder = self.holders[data.draw(st.sampled_from(coming))]
            holder.kept, holder.on_its_way = holder.on_its_way, None

    @rule(data=st.data(), part=st.floats(0, 1))
    def spend(self, data: st.DataObject, part: float) -> None:
        """A lost one spends too, as long as its lease lasts: nobody knows."""
        able = [name for name, holder in self.holders.items() if holder.share(self.now) or holder.kept]
        if not able:
            return
        holder = self.holders[data.draw(st.sampled_from(able))]
        if holder.kept is not None and holder.kept.usd is not None and holder.kept.ends > self.now:
            holder.spent_usd += max(holder.kept.usd - holder.spent_usd, 0.0) * part

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        present = [name for name, holder in self.holders.items() if not holder.is_lost]
        if present:
            name = data.draw(st.sampled_from(present))
            self.holders[name].is_lost = True
            # What is in flight at its death is bounded by its lease.
            self.book.lose(name, math.inf)

    @invariant()
    def the_rate_is_never_passed(self) -> None:
        in_use = sum(holder.share(self.now) for holder in self.holders.values())
        assert in_use <= self.book.share_in_force(self.now) + 1e-9 <= 1.0 + 2e-9

    @invariant()
    def the_budget_is_never_passed(self) -> None:
        assert sum(holder.spent_usd for holder in self.holders.values()) <= BUDGET_USD + 1e-9
        assert self.book.most_usd(self.now) <= BUDGET_USD + 1e-9


TestLeases = LeasesMachine.TestCase
