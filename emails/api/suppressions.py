"""Suppressions: addresses that are not sent to, whoever asks."""

from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from emails.addresses import Address, shortened
from emails.api import description as api
from emails.api.description import described
from emails.api.errors import ApiError, not_found
from emails.api.lists import choice, page
from emails.api.serializers import suppression_as_json
from emails.api.shapes import TEXT
from emails.api.view import ApiView, json_object
from emails.models import Suppression
from emails.search import as_uuid

MAX_BATCH = 100
ENTRY = api.in_path("id", "The entry's id, or the address.", TEXT)


class Suppressions(ApiView):
    @described("addSuppression", "Add an address", "Suppressed", body="NewSuppression", status=[200, 201])
    def post(self, request: Request) -> Response:
        """Adds an address (201); one that is there already is returned as it is (200)."""
        fields = json_object(request)
        if "email" not in fields:
            raise ApiError(422, "missing_required_field", "The `email` field is missing: give an address.")
        row, new = Suppression.objects.get_or_create(mailbox=listed("email", fields["email"]))
        return Response({"object": "suppression", "id": str(row.pk)}, status=201 if new else 200)

    @described("listSuppressions", "List the addresses", "SuppressionPage", parameters=[*api.PAGE, api.ORIGIN])
    def get(self, request: Request) -> Response:
        """The list, newest first; narrowed by `origin`."""
        rows = Suppression.objects.all()
        if origin := choice(request, "origin", Suppression.Origin.values):
            rows = rows.filter(origin=origin)
        return page(request, rows, suppression_as_json)


class OneSuppression(ApiView):
    @described("getSuppression", "Look at an entry", "Suppression", parameters=[ENTRY])
    def get(self, request: Request, id: str) -> Response:
        """One entry, by its id or by its address."""
        return Response({"object": "suppression", **suppression_as_json(found(id))})

    @described("removeSuppression", "Take an address off", "Released", parameters=[ENTRY])
    def delete(self, request: Request, id: str) -> Response:
        """Takes an address off the list, by its id or by itself."""
        row = found(id)
        gone = removed(row)
        row.delete()
        return Response(gone)


class AddSuppressions(ApiView):
    @described("addSuppressions", "Add many addresses", "SuppressedBatch", body="NewSuppressions", status=[201])
    def post(self, request: Request) -> Response:
        """Adds 1 to 100 addresses; the answer has their ids in the same order, each once."""
        texts = batch_of(json_object(request), "emails")
        addresses = list(dict.fromkeys(listed(f"emails[{n}]", text) for n, text in enumerate(texts)))
        rows = [Suppression(mailbox=address) for address in addresses]
        Suppression.objects.bulk_create(rows, ignore_conflicts=True)
        ids = dict(Suppression.objects.filter(mailbox__in=addresses).values_list("mailbox", "pk"))
        there = [ids[address] for address in addresses if address in ids]  # less those just removed by another caller
        return Response({"data": [{"object": "suppression", "id": str(id)} for id in there]}, status=201)


class RemoveSuppressions(ApiView):
    @described("removeSuppressions", "Take many addresses off", "ReleasedBatch", body="SuppressionsToRelease")
    def post(self, request: Request) -> Response:
        """Takes up to 100 entries off the list, by `emails` or by `ids`; the answer names those that were on it."""
        fields = json_object(request)
        name = "ids" if "ids" in fields else "emails"
        gone = []
        for text in batch_of(fields, name):
            if row := entries(text).first():
                gone.append(removed(row))
                row.delete()
        return Response({"data": gone})


def listed(field: str, value: object) -> str:
    """The address as the list has it."""
    if not isinstance(value, str):
        raise ApiError(422, "validation_error", f"The `{field}` field must be an address, as a string.")
    try:
        return Address.parse(value).mailbox.lower()
    except ValueError as error:
        raise ApiError(422, "validation_error", f"The `{field}` field: {error}") from None


def entries(text: str) -> QuerySet:
    """By id or by address: there is one, or none."""
    if id := as_uuid(text):
        return Suppression.objects.filter(pk=id)
    try:
        return Suppression.objects.filter(mailbox=listed("email", text))
    except ApiError:
        return Suppression.objects.none()


def found(text: str) -> Suppression:
    if not (row := entries(text).first()):
        raise not_found(f"{shortened(text)} is not on the suppression list.")
    return row


def removed(row: Suppression) -> dict:
    return {"object": "suppression", "id": str(row.pk), "deleted": True}


def batch_of(fields: dict, name: str) -> list[str]:
    items = fields.get(name)
    if items is None:
        raise ApiError(422, "missing_required_field", f"The `{name}` field is missing: give a list.")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH or not all(isinstance(i, str) for i in items):
        raise ApiError(422, "validation_error", f"The `{name}` field must be a list of 1 to {MAX_BATCH} strings.")
    return items
