"""The API's description as a document, and as a page to try it on."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from rest_framework.request import Request

from emails.api.description import document
from emails.api.view import ApiView


class OpenApi(ApiView):
    authentication_classes: list = []  # it holds nothing that a key protects
    schema = None

    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(document(), content_type="application/json")


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "docs.html")
