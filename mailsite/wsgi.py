"""What the web server calls."""

import os
import sys

from django.core.wsgi import get_wsgi_application

from mailsite.env import EnvironmentProblem

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailsite.settings")
try:
    application = get_wsgi_application()
except EnvironmentProblem as problem:
    sys.exit(str(problem))
