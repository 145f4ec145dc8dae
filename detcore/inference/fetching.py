"""An image over HTTP, into memory."""

import http.client
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

MOST_BYTES = 256 * 1024**2
"""Larger files are refused."""
TIMEOUT_SECONDS = 30.0
"""That a server may be silent for."""


class _WebOnly(HTTPRedirectHandler):
    """Follows redirections to http and https alone (urllib would go to ftp too), and to `hosts` if there are any."""

    def __init__(self, hosts: frozenset[str] | None) -> None:
        self._hosts = hosts

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        reason = _refused(newurl, self._hosts)
        if reason is not None:
            raise URLError(f"redirected to {newurl[:200]}: {reason}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refused(address: str, hosts: frozenset[str] | None) -> str | None:
    """Why it is not asked for a file."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return "only http and https are fetched"
    if hosts is not None and parts.hostname not in hosts:
        return f"nothing is fetched from {parts.hostname}, only from {', '.join(sorted(hosts))}"
    return None


def fetch(
    address: str,
    *,
    most_bytes: int = MOST_BYTES,
    timeout_seconds: float = TIMEOUT_SECONDS,
    hosts: frozenset[str] | None = None,
) -> bytes:
    """The file at an http or https address.

    Args:
        address: where.
        most_bytes: of the file.
        timeout_seconds: that the server may be silent for.
        hosts: that it may be fetched from, redirections included; None allows all.

    Raises:
        ValueError: the server refuses, is out of reach or silent for too long, or the file is too large or cut off.
    """
    reason = _refused(address, hosts)
    if reason is not None:
        raise ValueError(f"{address}: {reason}")
    too_large = f"{address}: larger than {most_bytes:,} bytes; download it, and give the file"
    try:
        request = Request(address, headers={"User-Agent": "detcore"})
        with build_opener(_WebOnly(hosts)).open(request, timeout=timeout_seconds) as response:
            length = response.headers.get("Content-Length")
            if length is not None and length.isdecimal() and int(length) > most_bytes:
                raise ValueError(too_large)
            data: bytes = response.read(most_bytes + 1)
    except HTTPError as error:
        raise ValueError(f"{address}: {error.code} {error.reason}") from error
    except (URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ValueError(f"{address}: {reason}") from error
    if len(data) > most_bytes:
        raise ValueError(too_large)
    if length is not None and length.isdecimal() and len(data) < int(length):
        raise ValueError(f"{address}: cut off at {len(data):,} of {length} bytes")
    return data
