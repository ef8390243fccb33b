from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("emails.api.urls")),
    path("", include("emails.urls")),
]

handler404 = "emails.api.errors.page_not_found"
handler500 = "emails.api.errors.server_error"
handler400 = "emails.api.errors.bad_request"
