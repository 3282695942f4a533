"""One route: a path prefix, its target and when it was last used."""

from __future__ import annotations

from datetime import MAXYEAR, MINYEAR, datetime, timezone
from time import time

from chp.http1.target import Origin, Target
from chp.metrics import Metrics


class Route:
    """A row of the route table.

    The data plane may keep it across a request or tunnel: when the route is
    posted again, the same object gets the new target, so that the activity
    of what runs already still counts.
    """

    __slots__ = (
        "_metrics",
        "data",
        "depth",
        "last_activity",
        "origin",
        "path",
        "plain",
        "saved_activity",
        "target",
    )

    origin: Origin
    plain: bool

    def __init__(
        self,
        path: str,
        target: Target,
        data: dict[str, object],
        *,
        last_activity: float,
        depth: int,
        metrics: Metrics,
    ) -> None:
        self.path = path  # the key as posted, cleaned
        self.use(target)
        self.data = data  # what was posted beside the target
        self.last_activity = last_activity  # seconds since the epoch
        self.depth = depth  # path segments of the prefix, the host not counted
        self.saved_activity = last_activity  # what the store knows
        self._metrics = metrics

    def use(self, target: Target) -> None:
        """Send what comes from now on to this target."""
        self.target = target
        # All that most requests need of it: among 100,000 routes, one object less to fetch from main
        # memory (0.2 µs).
        self.origin = target.origin
        self.plain = target.plain

    def touch(self) -> None:
        """Note activity: data in either direction, or the end of a successful response."""
        now = time()  # another proxy's clock may be ahead
        if now > self.last_activity:  # noqa: PLR1730 - max() takes longer
            self.last_activity = now
        # Reading the clock a second and third time would cost more than the
        # update itself: the summary's sum is the time that stores need.
        self._metrics.last_activity_count += 1

    def hear_of_activity(self, text: str) -> None:
        """Take over a time from the store, if it is later than what is known here."""
        moment = parse_time(text)
        if moment is not None and moment > self.last_activity:
            self.last_activity = self.saved_activity = moment

    def as_json(self) -> dict[str, object]:
        """Return what the REST API shows and stores keep; the target is byte for byte as posted."""
        return {"target": self.target.url, **self.data, "last_activity": format_time(self.last_activity)}


def format_time(seconds: float) -> str:
    """Write seconds since the epoch as ISO 8601 in UTC, with milliseconds and ``Z``."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


def parse_time(text: object) -> float | None:
    """Read what :func:`format_time` wrote; None if it is anything else."""
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        # The first and the last year may be no year in UTC.
        return moment.timestamp() if MINYEAR < moment.year < MAXYEAR else None
    except (ValueError, OverflowError):
        return None
