from django.conf import settings
from django.contrib.staticfiles.management.commands import runserver


class Command(runserver.Command):
    default_port = str(settings.PORT)
