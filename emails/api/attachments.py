"""Attachments: what an email has, and their bytes by a link that ends."""

from django.core import signing
from django.http import HttpResponse
from django.utils.http import content_disposition_header
from rest_framework.request import Request
from rest_framework.response import Response

from emails.addresses import shortened
from emails.api import description as api
from emails.api.description import described
from emails.api.emails import found
from emails.api.errors import not_found
from emails.api.lists import page
from emails.api.serializers import DOWNLOAD_LIFETIME, DOWNLOAD_SALT, attachment_as_json
from emails.api.shapes import BINARY, TEXT
from emails.api.view import ApiView
from emails.models import Attachment, EmailRequest
from emails.search import as_uuid


class Attachments(ApiView):
    @described(
        "listAttachments", "An email's attachments", "AttachmentPage", parameters=[api.EMAIL_ID, *api.WHOLE_PAGE]
    )
    def get(self, request: Request, id: str) -> Response:
        """The email's attachments, each with a link by which whoever has it can download it for an hour."""
        email = found(EmailRequest.objects.all(), id)
        return page(request, email.attachments.all(), attachment_as_json, oldest_first=True, default=100)


class OneAttachment(ApiView):
    @described(
        "getAttachment",
        "One attachment",
        "Attachment",
        parameters=[api.EMAIL_ID, api.in_path("attachment_id", "The attachment's id.")],
    )
    def get(self, request: Request, id: str, attachment_id: str) -> Response:
        """One attachment, with a link by which it can be downloaded for an hour."""
        email = found(EmailRequest.objects.all(), id)
        if not (row := email.attachments.filter(pk=as_uuid(attachment_id)).first()):
            raise not_found(f"The email has no attachment {shortened(attachment_id)}.")
        return Response({"object": "attachment", **attachment_as_json(row)})


class Download(ApiView):
    authentication_classes: list = []  # the link is the key

    @described(
        "downloadAttachment",
        "Download an attachment",
        BINARY,
        media_type="application/octet-stream",
        parameters=[api.in_path("token", "From a `download_url`.", TEXT)],
    )
    def get(self, request: Request, token: str) -> HttpResponse:
        """An attachment's bytes, to whoever has a link that was signed within the hour."""
        try:
            id = signing.loads(token, salt=DOWNLOAD_SALT, max_age=DOWNLOAD_LIFETIME)
        except signing.BadSignature:
            raise not_found("This download link is not valid, or not any more.") from None
        if not (attachment := Attachment.objects.select_related("blob").filter(pk=id).first()):
            raise not_found("The attachment is gone.")
        response = HttpResponse(bytes(attachment.blob.content), content_type="application/octet-stream")
        response["Content-Disposition"] = content_disposition_header(True, attachment.filename)
        response["Content-Security-Policy"] = "sandbox; default-src 'none'"
        return response
