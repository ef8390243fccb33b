"""django-post_office: `python -m bench.peers.with_post_office COUNT FOLDER` queues messages, and sends them by its own
command. Prints the seconds that the sending took.
"""

import os
import sys
import time

from django.conf import settings

SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": f"{sys.argv[2]}/post_office.sqlite3",
    "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"},
}


def main(count: int) -> None:
    from django.core.management import call_command
    from post_office import mail

    from bench import message

    call_command("migrate", verbosity=0)
    for number in range(count):
        to, text, html = message.recipient(number), message.TEXT, message.HTML
        mail.send(to, message.SENDER, subject=message.SUBJECT, message=text, html_message=html)
    started = time.perf_counter()
    call_command("send_queued_mail", processes=1, verbosity=0)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "post_office"],
        DATABASES={"default": SQLITE},
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=int(os.environ["SINK_PORT"]),
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        SECRET_KEY="-",
        LOGGING_CONFIG=None,
    )
    import django

    django.setup()
    main(int(sys.argv[1]))
