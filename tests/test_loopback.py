"""Is a host this machine?"""

from __future__ import annotations

import pytest

from asyncgen.local_http import is_loopback_host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LocalHost", "::ffff:127.0.0.1"])
def test_literal_forms_of_this_machine_are_known(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "a.b", "localhost.evil.example", "0x7f.1", "2130706433", ""])
def test_what_may_be_another_machine_is_not(host: str) -> None:
    assert not is_loopback_host(host)
