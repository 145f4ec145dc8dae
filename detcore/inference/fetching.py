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
    """Follows redirections to http and https alone: urllib would go to ftp too."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise URLError(f"redirected to {newurl[:200]}, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(address: str, *, most_bytes: int = MOST_BYTES, timeout_seconds: float = TIMEOUT_SECONDS) -> bytes:
    """The file at an http or https address.

    Raises:
        ValueError: the server refuses, is out of reach or silent for too long, or the file is too large or cut off.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError(f"{address}: only http and https are fetched")
    too_large = f"{address}: larger than {most_bytes:,} bytes; download it, and give the file"
    try:
        request = Request(address, headers={"User-Agent": "detcore"})
        with build_opener(_WebOnly).open(request, timeout=timeout_seconds) as response:
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
