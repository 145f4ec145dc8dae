"""A request that cannot be answered, and why."""


class Refused(Exception):
    """Becomes the answer `{"error": reason}`.

    Args:
        status: of HTTP, 4xx or 503.
        reason: one line: what was wrong, and how to mend it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = " ".join(reason.split())[:_LONGEST]


_LONGEST = 500
