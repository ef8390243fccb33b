"""Limits of a key: requests a second and emails a day. By default there are none."""

import logging
import time
from datetime import UTC, datetime, timedelta

from redis.exceptions import RedisError

from emails import doorbell
from emails.api.errors import ApiError
from emails.models import ApiKey

logger = logging.getLogger(__name__)

# Counts up in a window of one second, atomically and in one round trip: the count, and the ms left.
COUNT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], 1000) end
return {count, redis.call('PTTL', KEYS[1])}
"""
# Adds to a day's count unless that would pass the quota; the count, or -1.
SPEND = """
local spent = tonumber(redis.call('GET', KEYS[1]) or '0')
if spent + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return -1 end
redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], 172800)
return spent + tonumber(ARGV[1])
"""


def take_turn(key: ApiKey) -> dict[str, str]:
    """Counts a request; the `ratelimit-*` headers for its answer. Raises ApiError 429.

    If Redis is away, requests pass: a limit is no reason to refuse mail.
    """
    if not key.rate_limit:
        return {}
    try:
        count, left = _redis().eval(COUNT, 1, f"mailsite:rate:{key.pk}")
    except RedisError as error:
        logger.warning("Redis can't be reached (%s): rate limits are not kept.", error)
        return {}
    seconds = max(1, -(-left // 1000))
    headers = {
        "ratelimit-limit": str(key.rate_limit),
        "ratelimit-remaining": str(max(0, key.rate_limit - count)),
        "ratelimit-reset": str(seconds),
    }
    if count > key.rate_limit:
        message = f"Too many requests: this key may make {key.rate_limit} a second. Try again in {seconds} s."
        raise ApiError(429, "rate_limit_exceeded", message, {**headers, "retry-after": str(seconds)})
    return headers


def spend(key: ApiKey, emails: int) -> None:
    """Takes `emails` from the key's daily quota. Raises ApiError 429; the day ends at midnight UTC."""
    if not key.daily_quota:
        return
    now = datetime.now(UTC)
    try:
        spent = _redis().eval(SPEND, 1, f"mailsite:quota:{key.pk}:{now:%Y%m%d}", emails, key.daily_quota)
    except RedisError as error:
        logger.warning("Redis can't be reached (%s): quotas are not kept.", error)
        return
    if spent < 0:
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        message = f"This key's quota of {key.daily_quota} emails a day is spent. It begins anew at midnight UTC."
        seconds = max(1, int(midnight.timestamp() - time.time()))
        raise ApiError(429, "daily_quota_exceeded", message, {"retry-after": str(seconds)})


def _redis():
    return doorbell.queue("default").connection
