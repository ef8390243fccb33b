from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("health/live", lambda request: HttpResponse("ok\n", content_type="text/plain"), name="live")]
