"""Trouble that passes is waited for."""

import asyncio
import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from detcore.config.stores import without_secrets

T = TypeVar("T")
_PASSING_STATUS = (408, 425, 429)
_LASTING_ERRNO = (errno.EINVAL, errno.EPERM, errno.ENOSPC)
_CLIENTS = ("aiohttp", "botocore", "aiobotocore", "s3fs", "gcsfs", "google", "requests", "urllib3")
_LONGEST_PAUSE_SECONDS = 20.0
_jitter = random.SystemRandom()  # draws nothing from the generators that a training seeds


def with_retries(request: Callable[[], T], *, tries: int, pause_seconds: float = 0.5) -> T:
    """What `request` returns, asked again while its trouble may pass.

    The pauses double and are jittered, so that many ranks that were refused together do not come back together.

    Raises:
        Exception: what the request raised: at once if it cannot pass, else the last of `tries`.
    """
    for failures in range(1, tries + 1):
        try:
            return request()
        except Exception as error:
            if failures == tries or not may_pass(error):
                raise
        pause = min(pause_seconds * 2 ** (failures - 1), _LONGEST_PAUSE_SECONDS)
        time.sleep(pause * _jitter.uniform(0.5, 1.0))
    raise AssertionError("unreachable: tries is at least 1")


def may_pass(error: Exception) -> bool:
    """Whether a request that failed so may succeed later: time-outs, 5xx, cut connections; not refusals."""
    if isinstance(error, (FileNotFoundError, PermissionError)) or "Credentials" in type(error).__name__:
        return False
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUS
    return of_a_store(error) and getattr(error, "errno", None) not in _LASTING_ERRNO


def of_a_store(error: Exception) -> bool:
    """Whether an error is the store's or the network's, not a mistake of ours."""
    known = isinstance(error, (OSError, asyncio.TimeoutError))
    return known or type(error).__module__.split(".")[0] in _CLIENTS


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error carries: of aiohttp's answers, of gcsfs, and of botocore below those of s3fs."""
    for cause in (error, error.__cause__):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
    status = getattr(error, "code" if type(error).__module__.startswith("gcsfs") else "status", None)
    return status if isinstance(status, int) else None


def reason(error: BaseException) -> str:
    """An error in a few words, without what may be a credential: signed URLs stand in some clients' messages."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "no answer in time"
    status = status_of(error)
    text = str(getattr(error, "message", "") or error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    said = without_secrets(" ".join(text.split()))[:200]
    return said if status is None or str(status) in said else f"{status} {said}"
