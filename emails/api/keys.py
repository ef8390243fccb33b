"""API keys: made, listed, renamed, revoked."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from emails.addresses import shortened
from emails.api import description as api
from emails.api.description import described
from emails.api.errors import ApiError, not_found
from emails.api.lists import page
from emails.api.serializers import key_as_json
from emails.api.view import ApiView, json_object
from emails.models import ApiKey, Priority
from emails.search import as_uuid

# What a key may be made of, and the JSON types of each; what their values may be, the model says.
FIELDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "permission": (str,),
    "domains": (list,),
    "expires_at": (str,),
    "priority": (str,),
    "time_zone": (str,),
    "rate_limit": (int,),
    "daily_quota": (int,),
}
KEY_ID = api.in_path("id", "The key's id.")
KINDS = {str: "a string", list: "a list", int: "a whole number"}


class ApiKeys(ApiView):
    @described("makeApiKey", "Make a key", "MadeKey", body="NewKey", status=[201])
    def post(self, request: Request) -> Response:
        """Makes a key; its token is in this answer and never again."""
        if request.auth.is_limited:
            message = "This API key is limited to some domains or in time, so it can't make others."
            raise ApiError(401, "restricted_api_key", message)
        with refusals():
            key, token = ApiKey.create(**key_fields(json_object(request)))
        return Response({"id": str(key.pk), "token": token}, status=201)

    @described("listApiKeys", "List the keys", "KeyPage", parameters=api.PAGE)
    def get(self, request: Request) -> Response:
        """The keys that are not revoked, newest first."""
        return page(request, ApiKey.objects.filter(revoked_at=None), key_as_json)


class OneApiKey(ApiView):
    @described("renameApiKey", "Rename a key", "RenamedKey", body="NewName", parameters=[KEY_ID])
    def patch(self, request: Request, id: str) -> Response:
        """Gives a key another name."""
        key = found(id)
        key.name = key_fields(json_object(request), ("name", "id"))["name"]
        with refusals():
            key.clean()
        key.save(update_fields=["name"])
        return Response({"object": "api_key", "id": str(key.pk)})

    @described("revokeApiKey", "Revoke a key", "RevokedKey", parameters=[KEY_ID])
    def delete(self, request: Request, id: str) -> Response:
        """Revokes a key."""
        key = found(id)
        key.revoke()
        return Response({"object": "api_key", "id": str(key.pk), "deleted": True})


def found(id: str) -> ApiKey:
    if not (key := ApiKey.objects.filter(pk=as_uuid(id), revoked_at=None).first()):
        raise not_found(f"There is no API key {shortened(id)}.")
    return key


def key_fields(fields: dict[str, Any], known: tuple[str, ...] = tuple(FIELDS)) -> dict[str, Any]:
    """A key's fields as the model has them."""
    if fields.get("domain_id") is not None:
        message = "The `domain_id` field is not supported: give `domains`, a list of names such as example.com."
        raise ApiError(422, "validation_error", message)
    if unknown := set(fields) - {*known, "domain_id"}:
        message = f"The field `{shortened(min(unknown))}` is not supported. Supported fields: {', '.join(known)}."
        raise ApiError(422, "validation_error", message)
    given = {name: fields[name] for name in known if fields.get(name) is not None}
    for name, value in given.items():
        if type(value) not in (kinds := FIELDS.get(name, (str,))):
            raise ApiError(422, "validation_error", f"The `{name}` field must be {KINDS[kinds[0]]}.")
    if not given.get("name"):
        raise ApiError(422, "missing_required_field", "The `name` field is missing: say what the key is for.")
    if given.get("permission", ApiKey.Permission.FULL) not in ApiKey.Permission:
        message = "The `permission` field must be `full_access` or `sending_access`."
        raise ApiError(422, "invalid_access", message)
    if "priority" in given:
        if given["priority"] not in Priority.labels:
            raise ApiError(422, "validation_error", "The `priority` field must be `high`, `default` or `low`.")
        given["priority"] = Priority[given["priority"].upper()]
    if "expires_at" in given:
        try:
            moment = datetime.fromisoformat(given["expires_at"])
            given["expires_at"] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            message = "The `expires_at` field must be a moment in ISO 8601, such as 2026-12-24T18:00:00Z."
            raise ApiError(422, "validation_error", message) from None
    given.pop("id", None)
    return given


@contextmanager
def refusals() -> Iterator[None]:
    """What the model refuses becomes an error of the API."""
    try:
        yield
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise ApiError(422, "validation_error", f"The `{field}` field: {messages[0]}") from None
