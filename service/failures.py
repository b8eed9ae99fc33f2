"""What the gateway raises where a server does not answer, or a request is wrong."""

from __future__ import annotations


class DependencyUnavailable(Exception):
    """A server that the gateway needs did not answer, or not in time."""

    def __init__(self, dependency: str, reason: str, *, is_late: bool = False) -> None:
        super().__init__(f"{dependency}: {reason}")
        self.dependency, self.reason, self.is_late = dependency, reason, is_late


class EnsembleBusy(DependencyUnavailable):
    """As many requests as are allowed wait for the ensemble already."""

    def __init__(self, in_flight: int) -> None:
        super().__init__("triton", f"{in_flight} requests wait for it already")


class OtherBundle(DependencyUnavailable):
    """The ensemble answers for another bundle than this gateway serves; its slate is not shown."""

    def __init__(self, bundle: str) -> None:
        super().__init__("triton", f"serves another bundle than {bundle}: restart the one that is behind")


class NotStored(DependencyUnavailable):
    """No slate is stored for this user, as far as is known, or nothing is left of it."""

    def __init__(self, reason: str) -> None:
        super().__init__("batch", reason)


class TooFarBehind(Exception):
    """So many events, or changes of items and users, lie in the streams that no more are taken."""

    def __init__(self, most: int, what: str) -> None:
        super().__init__(f"{most:,} {what} or more wait already, for their effect or for the archive")


class BodyRefused(Exception):
    """A body that is not read further: status, a word for the metric, what is wrong and what to do."""

    def __init__(self, status: int, reason: str, detail: str, field: str = "body") -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail, self.field = status, reason, detail, field
