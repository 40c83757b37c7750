"""What is taken out of texts that quote a key."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.providers.endpoint import Secret, redacted

KEY = 'sk-canary/"+\\4711'


@pytest.mark.parametrize("form", [KEY, quote(KEY, safe=""), json.dumps(KEY)[1:-1]])
def test_a_secret_is_taken_out_in_every_form_that_replies_and_addresses_quote_it_in(form: str) -> None:
    assert redacted(f"Incorrect key {form} given, {form}", Secret(KEY, "TEST")) == "Incorrect key *** given, ***"


@given(st.text(), st.text())
def test_no_text_holds_the_secret_afterwards(before: str, after: str) -> None:
    assert KEY not in redacted(before + KEY + after, Secret(KEY, "TEST"))


def test_a_text_stays_as_it_is_where_no_secret_was_sent() -> None:
    assert redacted("as it came", None) == "as it came"
    assert redacted("as it came", Secret("", "TEST")) == "as it came"
