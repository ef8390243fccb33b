#!/usr/bin/env python3
"""Django's command line for Mailsite. Kept readable by old Pythons too, so that it can say what they lack."""

import os
import sys


def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailsite.settings")
    try:
        if sys.version_info < (3, 12):
            raise ImportError("Python 3.12 or newer is needed")
        from django.core.management import execute_from_command_line

        from mailsite.env import EnvironmentProblem
    except ImportError as error:
        sys.exit(
            "Python %d.%d at %s can't run Mailsite (%s): run `make run` once, "
            "then `.venv/bin/python manage.py ...`, or `. .venv/bin/activate` first."
            % (sys.version_info[0], sys.version_info[1], sys.executable, error)
        )
    try:
        execute_from_command_line(sys.argv)
    except EnvironmentProblem as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
