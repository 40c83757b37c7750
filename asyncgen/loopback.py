"""Is a host this machine? One answer for addresses that are asked and for addresses that are listened on.

Leaves resolving to nobody: only the literal forms count, for a name that resolves to this machine may move.
"""

from __future__ import annotations

import ipaddress


def is_loopback_host(host: str) -> bool:
    """Whether only this machine is reached there.

    Args:
        host: a name or an address, without port and brackets, in any case.
    """
    if not is_address(host):
        return host.lower() == "localhost"
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback  # Python 3.11 does not look into mapped ones


def is_address(host: str) -> bool:
    """Whether it is a literal address, IPv4 or IPv6, without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
