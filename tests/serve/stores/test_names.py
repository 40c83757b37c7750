"""Names of tuned models."""

from __future__ import annotations

import re

import pytest

from asyncgen.serve.stores.models import checkpoint_name, tuned_name


@pytest.mark.parametrize(
    ("suffix", "written"),
    [("direct_marketing", "direct_marketing"), ("Direct Marketing!", "direct-marketing"), (None, ""), ("a:b", "a-b"),
     ("été", "t"), ("***", "")],
)  # fmt: skip
def test_suffix_is_made_fit_for_a_name(suffix: str | None, written: str) -> None:
    assert re.fullmatch(rf"ft:base:org:{written}:[0-9a-f]{{8}}", tuned_name("base", "org", suffix))


def test_names_of_two_jobs_differ() -> None:
    assert tuned_name("base", "org", "same") != tuned_name("base", "org", "same")


def test_checkpoint_is_named_after_its_model() -> None:
    assert checkpoint_name("ft:base:org:s:1", 20) == "ft:base:org:s:1:ckpt-step-20"
