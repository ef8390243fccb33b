from django.views.decorators.debug import sensitive_variables
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from emails.api.errors import ApiError
from emails.models import ApiKey


class BearerKey(BaseAuthentication):
    """`Authorization: Bearer KEY`. There is no anonymous use of the API; `request.auth` is the key."""

    @sensitive_variables("token")
    def authenticate(self, request: Request) -> tuple[None, ApiKey]:
        scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ApiError(
                401,
                "missing_api_key",
                "The API key is missing: send the header `Authorization: Bearer YOUR_KEY`.",
                {"WWW-Authenticate": "Bearer"},
            )
        if key := ApiKey.find(token.strip()):
            return None, key
        raise ApiError(403, "invalid_api_key", "The API key is unknown, revoked or expired.")
