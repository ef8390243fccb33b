import json

import orjson
from django.conf import settings
from rest_framework.parsers import BaseParser

from emails.addresses import shortened
from emails.api.errors import ApiError


class StrictJSON(BaseParser):
    """A JSON body, whole and valid. An empty one counts as `{}`: some clients send it with every request."""

    media_type = "application/json"

    def parse(self, stream, media_type=None, parser_context=None):
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise ApiError(413, "validation_error", f"The body is too large: at most {limit // 2**20} MB are allowed.")
        if not body.strip():
            return {}
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ApiError(400, "validation_error", f"The body is not valid JSON: {error}.") from None
        try:
            json.loads(body, object_pairs_hook=_each_name_once)
        except RecursionError:
            raise ApiError(400, "validation_error", "The body is nested too deeply.") from None
        return data


def _each_name_once(pairs: list[tuple[str, object]]) -> None:
    """Of two values under one name, parsers take the first or the last: what the caller meant nobody knows."""
    names = {name for name, _ in pairs}
    if len(names) < len(pairs):
        for name, _ in pairs:
            if name not in names:
                message = f"The body is not valid JSON: the name `{shortened(name)}` stands twice in one object."
                raise ApiError(400, "validation_error", message)
            names.remove(name)
