"""Facts about the division of a run into shards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import UsageError
from asyncgen.generate.distributed.plan import Shard, missing_rows, parse_shard
from asyncgen.generate.distributed.scripts import shard_script
from asyncgen.generate.distributed.shards import OpenShard
from asyncgen.generate.http.completer import RateLimits
from asyncgen.generate.pool.rate import RequestRates
from asyncgen.job.model import Limits
from asyncgen.run.key_set import KeySet, number_of
from asyncgen.run.state import JobState, RunState

ARRAY = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(
    ("text", "environ", "shard"),
    [
        ("0/4", {}, Shard(0, 4)),
        ("3/4", ARRAY, Shard(3, 4)),
        ("/7", {"JOB_COMPLETION_INDEX": "6"}, Shard(6, 7)),
        ("/2", ARRAY, Shard(1, 2)),
        ("", ARRAY, Shard(1, 4)),
        ("", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "3"}, Shard(1, 4)),
    ],
)
def test_a_shard_is_named_or_told_by_the_scheduler(text: str, environ: dict[str, str], shard: Shard) -> None:
    assert parse_shard(text, environ) == shard


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("4/4", {}),
        ("-1/4", {}),
        ("0/0", {}),
        ("1", {}),
        ("a/b", {}),
        ("1/2/3", {}),
        ("²/4", {}),
        ("/4", {}),
        ("", {}),
        ("", {"JOB_COMPLETION_INDEX": "0"}),
        ("0/100001", {}),
        ("", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "4"}),
        ("", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "6"}),
    ],
)
def test_what_would_leave_rows_to_nobody_is_refused(text: str, environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as refused:
        parse_shard(text, environ)
    assert "--shard" in (refused.value.help_text or "")


class Keys:
    """A grid that is its keys."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys

    def walk(self, is_wanted):  # type: ignore[no-untyped-def]  # as RequestGrid's
        for key in self.keys:
            assert not is_wanted(key)
            yield 1


KEYS = st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=60)


@given(KEYS, st.integers(1, 9), st.data())
def test_every_missing_row_is_of_one_shard_and_settled_ones_are_of_none(
    keys: list[bytes], count: int, data: st.DataObject
) -> None:
    there = data.draw(st.sets(st.sampled_from(keys))) if keys else set()
    settled = KeySet()
    for key in there:
        settled.add(key)
    missing = missing_rows(Keys(keys), count, settled, KeySet())  # type: ignore[arg-type]  # walks as a grid does
    left = [number_of(key) for key in keys if not settled.has(number_of(key))]
    assert missing.rows_of == [sum(number % count == index for number in left) for index in range(count)]
    assert missing.found == len(keys) - len(left)
    again = missing_rows(Keys(keys), 1, settled, KeySet())  # type: ignore[arg-type]  # as above
    assert again.digest == missing.digest, "the division has no part in it"


def shard_of(count: int, spent_usd: float) -> OpenShard[None]:
    nothing = RunState(job=JobState(name="j"))
    return OpenShard(Shard(0, count), None, nothing, None, 0, 0, spent_usd, None)  # type: ignore[arg-type]  # limits only


def test_all_shards_together_keep_the_limits_of_the_run() -> None:
    limits = Limits(concurrency=10, requests_per_minute=600, tokens_per_minute=1000, max_cost=9)
    part = shard_of(4, 1.0).limits(limits)
    assert (part.concurrency, part.requests_per_minute, part.tokens_per_minute, part.max_cost) == (2, 150, 250, 2)
    assert shard_of(4, 10.0).limits(limits).max_cost == 0
    none = shard_of(4, 0.0).limits(Limits())
    assert (none.concurrency, none.requests_per_minute, none.max_cost) == (None, None, None)
    assert shard_of(64, 0.0).limits(limits).concurrency == 1


def test_what_a_server_tells_of_its_limits_is_divided_too() -> None:
    rates = RequestRates(None, None, None, share=0.25)
    rates.learn(RateLimits(600, 60_000), b"body", 0, 0.0)
    assert rates.requests.per_minute == 150
    assert rates.tokens.pace.per_minute == 15_000


def test_words_of_a_command_stay_words_in_a_script() -> None:
    words = ["generate", "my job.toml", '--model=a"b$(c)']
    assert "'my job.toml' '--model=a\"b$(c)'" in shard_script("slurm", words, 2, job="my job.toml", name="My Job")
    yaml = pytest.importorskip("yaml")
    text = shard_script("k8s", words, 2, job="my job.toml", name="My Job")
    found = yaml.safe_load(text)
    assert found["metadata"]["name"] == "asyncgen-my-job"
    command = found["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command == ["asyncgen", "generate", "my job.toml", '--model=a"b$$(c)', "--shard", "/2"]
