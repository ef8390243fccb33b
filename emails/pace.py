"""A limit of messages a second for the relay, kept by all workers together."""

import logging
import threading
import time

from redis.exceptions import RedisError

from emails import doorbell

logger = logging.getLogger(__name__)

# The moment of the next turn, by the clock of Redis. Returns the ms until the caller's own, and books the next.
# A turn that lies further ahead than workers could have booked is left from before the clock was set back.
BOOK = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local turn = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
if turn - now > math.max(60000, 1000 * ARGV[1]) then turn = now end
local following = turn + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.3f', following), 'PX', math.ceil(following - now))
return math.ceil(turn - now)
"""


class Pace:
    """At most `rate` messages a second to the relay called `name`, evenly spaced; 0 for no limit.

    While Redis is away each worker keeps the limit for itself.
    """

    def __init__(self, rate: float, name: str):
        self._interval = 1000 / rate if rate else 0.0  # ms
        self._key = f"mailsite:pace:{name}"
        self._next = 0.0
        self.one_at_a_time = threading.Lock()  # a worker has one turn booked, whatever its senders are doing

    def __bool__(self) -> bool:
        return bool(self._interval)

    def book(self) -> float:
        """Books the next free turn. Returns the seconds until then."""
        try:
            wait = doorbell.queue("default").connection.eval(BOOK, 1, self._key, self._interval) / 1000
        except RedisError as error:
            logger.warning("Redis can't be reached (%s): this worker keeps RELAY_RATE for itself.", error)
            wait = max(0.0, self._next - time.monotonic())
        self._next = time.monotonic() + wait + self._interval / 1000
        return wait
