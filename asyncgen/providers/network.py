"""Proxy, TLS certificates and headers for an address: one rule for every client.

A proxy is used for other machines only, by HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY as usual; never for this
machine, and never for a key that is sent unencrypted. Opening connections is left to the clients.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from asyncgen import __version__
from asyncgen.errors import UsageError
from asyncgen.providers.endpoint import Endpoint, host_and_port, is_loopback, without_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CERTIFICATES_HELP = (
    "check this machine's clock, and whether a proxy replaces certificates; SSL_CERT_FILE=... sets your own "
    "certificate authority"
)
_SCHEMES = ("http", "https")
# OpenSSL's reasons for bytes that are not TLS.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        url: with the user name and password of the variable.
        variable: the environment variable that named it.
    """

    url: str
    variable: str

    def __str__(self) -> str:
        return f"{urlsplit(self.url).netloc.rpartition('@')[2]} ({self.variable})"


@dataclass(frozen=True, slots=True)
class Route:
    """How an address is reached.

    Attributes:
        proxy: the proxy; None for a direct connection.
        certificates: trusted authorities; None for an address without TLS.
    """

    proxy: Proxy | None
    certificates: ssl.SSLContext | None


def route_to(endpoint: Endpoint, environment: Mapping[str, str] = os.environ) -> Route:
    """Find proxy and certificates for an endpoint.

    Args:
        endpoint: its address and key; a key that is sent unencrypted goes through no proxy.
        environment: HTTPS_PROXY and the like, SSL_CERT_FILE and SSL_CERT_DIR.

    Returns:
        How to reach it.

    Raises:
        UsageError: a variable names a proxy or certificates that cannot be used.
    """
    is_encrypted = endpoint.base_url.startswith("https:")
    by_proxy = is_encrypted or endpoint.key is None
    proxy = proxy_for(endpoint.base_url, environment) if by_proxy else None
    return Route(proxy, trusted_certificates(environment) if is_encrypted else None)


def proxy_for(base_url: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Find the proxy for an address.

    Args:
        base_url: the address.
        environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in upper or lower case.

    Returns:
        The proxy; None for a direct connection, always so on this machine.

    Raises:
        UsageError: the variable names a proxy that cannot be used.
    """
    scheme = urlsplit(base_url).scheme
    if is_loopback(base_url) or _is_exempt(base_url, environment):
        return None
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        if value := environment.get(name, "").strip():
            return Proxy(_checked_proxy(value, name), name)
    return None


def _checked_proxy(value: str, variable: str) -> str:
    url = value if "://" in value else f"http://{value}"
    host, _ = host_and_port(url)
    if urlsplit(url).scheme.lower() not in _SCHEMES or not host:
        kind = url.partition("://")[0]
        raise UsageError(
            f"the proxy in {variable} cannot be used",
            cause=f"{kind}:// proxies are not supported" if kind not in _SCHEMES else "it has no host, or no port",
            help_text=f"set it to http://HOST:PORT, or remove it: unset {variable}",
        )
    return url


def _is_exempt(base_url: str, environment: Mapping[str, str]) -> bool:
    exempt = environment.get("no_proxy", "") or environment.get("NO_PROXY", "")
    return any(_covers(each.strip().lower(), base_url) for each in exempt.split(",") if each.strip())


def _covers(entry: str, base_url: str) -> bool:
    """Whether an entry of NO_PROXY means this address. It is *, a host, a domain or a network, with or without port."""
    host, port = host_and_port(base_url)
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:  # one of the two is a name
        named, _, only_port = entry.rpartition(":") if entry.rpartition(":")[2].isdecimal() else (entry, "", "")
        domain = named.strip("[]").removeprefix("*").removeprefix(".")
        is_meant = entry == "*" or host == domain or (bool(domain) and host.endswith(f".{domain}"))
        return is_meant and only_port in {"", str(port)}


def trusted_certificates(environment: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Load the trusted authorities: those of SSL_CERT_FILE and SSL_CERT_DIR, else the system's.

    Args:
        environment: environment variables.

    Returns:
        A context for TLS clients.

    Raises:
        UsageError: a variable names a missing path, or a file without certificates.
    """
    file, folder = environment.get("SSL_CERT_FILE") or None, environment.get("SSL_CERT_DIR") or None
    if file is not None and not Path(file).is_file():
        raise _no_certificates("SSL_CERT_FILE", f"there is no file {file}")
    if folder is not None and not any(Path(each).is_dir() for each in folder.split(os.pathsep)):
        raise _no_certificates("SSL_CERT_DIR", f"there is no folder {folder}")
    try:
        context = ssl.create_default_context()  # OpenSSL reads the variables itself, and ignores a bad file
        if file is not None:
            context.load_verify_locations(file)
    except (ssl.SSLError, OSError) as error:
        raise _no_certificates("SSL_CERT_FILE", f"{file} has no valid certificates") from error
    return context


def _no_certificates(variable: str, cause: str) -> UsageError:
    return UsageError(
        f"there are no certificates at {variable}",
        cause=cause,
        help_text=f"set it to a file with authorities in PEM format, or remove it: unset {variable}",
    )


def headers_for(endpoint: Endpoint) -> dict[str, str]:
    """Build the headers of every request to an endpoint, except those that describe the body.

    Args:
        endpoint: its key and headers.

    Returns:
        Name to value, with the key in clear text.
    """
    given = {name.lower() for name in endpoint.headers}
    headers = {} if "user-agent" in given else {"User-Agent": f"asyncgen/{__version__}"}
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key.reveal()}"
    return {**headers, **endpoint.headers}


def connection_failure_reason(error: BaseException) -> str:
    """Find the reason why no connection was made.

    Args:
        error: the error of the connection.

    Returns:
        The system's reason, in lower case; never a text that may quote the request.
    """
    causes = list(_causes(error))
    if any(isinstance(each, socket.gaierror) for each in causes):
        return "unknown host"
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        return "connection refused"
    numbers = (each.errno for each in causes if isinstance(each, OSError))
    if (number := next((each for each in numbers if each and each > 0), None)) is not None:
        return os.strerror(number).lower()
    return "no answer in time" if any(isinstance(each, TimeoutError) for each in causes) else "the connection broke off"


def encrypted_address(base_url: str, error: BaseException) -> str | None:
    """Guess the right address, for one of http whose server ends the connection, as a port of https does.

    Args:
        base_url: the address that was used; an endpoint at its end is left out.
        error: the error of the connection.

    Returns:
        A suggestion for the user; None for an address of https, or another error.
    """
    # By name: aiohttp is imported only where requests are sent.
    is_ended = any(type(each).__name__ == "ServerDisconnectedError" for each in _causes(error))
    if not is_ended or not base_url.startswith("http:"):
        return None
    encrypted = without_endpoint(base_url).replace("http:", "https:", 1)
    return f"if the server speaks https, try {encrypted}; else look at the server's log"


def speaks_no_tls(error: BaseException) -> bool:
    """Check whether a connection failed because https was used for an http port.

    Args:
        error: the error of the connection.

    Returns:
        Whether the server does not speak TLS on this port.
    """
    return any(getattr(each, "reason", None) in _NO_TLS for each in _causes(error))


def certificate_failure_reason(error: BaseException) -> str:
    """Find the reason why a server's certificate is not trusted.

    Args:
        error: the error of the connection.

    Returns:
        OpenSSL's reason, or a general one.
    """
    for each in _causes(error):
        if words := getattr(each, "verify_message", None):
            return str(words)
    return "the TLS handshake failed"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and the errors that caused it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "os_error", None), *each.args]


def shown_target(location: str) -> str:
    """Clean the target of a redirect for a message.

    Args:
        location: the `Location` header.

    Returns:
        The URL without user name, password, query and fragment.
    """
    return re.sub(r"//[^/]*@", "//", location).partition("?")[0].partition("#")[0]
