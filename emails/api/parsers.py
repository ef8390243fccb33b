import orjson
from django.conf import settings
from rest_framework.parsers import BaseParser

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
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ApiError(400, "validation_error", f"The body is not valid JSON: {error}.") from None
