"""Limits of a key: requests a second and emails a day. By default there are none.

Both are counted in Redis, each in one round trip. If Redis is away, requests pass: a limit is no reason to
refuse mail.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.exceptions import RedisError

from emails import doorbell
from emails.api.errors import ApiError
from emails.models import ApiKey

logger = logging.getLogger(__name__)

# Counts up in a window of one second, atomically: the count, and the ms that are left.
COUNT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], 1000) end
return {count, redis.call('PTTL', KEYS[1])}
"""
# Adds to a day's count unless that would pass the quota: whether it did.
SPEND = """
local spent = tonumber(redis.call('GET', KEYS[1]) or '0')
if spent + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return 0 end
redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], 172800)
return 1
"""
GIVE_BACK = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('DECRBY', KEYS[1], ARGV[1]) end"


def take_turn(key: ApiKey) -> dict[str, str]:
    """Counts a request; the `ratelimit-*` headers for its answer. Raises ApiError 429."""
    if not key.rate_limit:
        return {}
    counted = _ask(COUNT, f"mailsite:rate:{key.pk}")
    if counted is None:
        return {}
    count, left = counted
    seconds = str(max(1, -(-left // 1000)))
    headers = {
        "ratelimit-limit": str(key.rate_limit),
        "ratelimit-remaining": str(max(0, key.rate_limit - count)),
        "ratelimit-reset": seconds,
    }
    if count > key.rate_limit:
        message = f"Too many requests: this key may make {key.rate_limit} a second. Try again in {seconds} s."
        raise ApiError(429, "rate_limit_exceeded", message, {**headers, "retry-after": seconds})
    return headers


@dataclass
class Spent:
    """Emails taken from a day's quota; `keep` says that they were stored."""

    keep: bool = False


@contextmanager
def quota(key: ApiKey, emails: int) -> Iterator[Spent]:
    """Takes `emails` from the key's day (UTC), and gives them back unless they were kept. Raises ApiError 429."""
    spent = Spent()
    if not key.daily_quota:
        yield spent
        return
    now = datetime.now(UTC)
    day = f"mailsite:quota:{key.pk}:{now:%Y%m%d}"
    if _ask(SPEND, day, emails, key.daily_quota) == 0:
        raise _exceeded(key, emails, now)
    try:
        yield spent
    finally:
        if not spent.keep:
            _ask(GIVE_BACK, day, emails)


def _exceeded(key: ApiKey, emails: int, now: datetime) -> ApiError:
    message = f"This key's quota of {key.daily_quota} emails a day does not suffice for {emails} more."
    if emails > key.daily_quota:  # it never will
        return ApiError(429, "daily_quota_exceeded", message)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    seconds = int((midnight - now).total_seconds()) + 1
    message += f" It begins anew at midnight UTC, in {seconds} s."
    return ApiError(429, "daily_quota_exceeded", message, {"retry-after": str(seconds)})


def _ask(script: str, name: str, *arguments: int) -> Any:
    """What the script returns; None if Redis is away."""
    try:
        return doorbell.queue("default").connection.eval(script, 1, name, *arguments)
    except RedisError as error:
        logger.warning("Redis can't be reached (%s): the limits of API keys are not kept.", error)
        return None
