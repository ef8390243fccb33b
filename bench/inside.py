"""What a benchmark does inside Mailsite: `python -m bench.inside WHAT …` in the environment of a copy of Mailsite."""

import json
import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailsite.settings")
django.setup()

from django.db.models import Count, Max, Min  # noqa: E402

from bench import message  # noqa: E402
from emails.drafts import Draft  # noqa: E402
from emails.models import EmailRequest, Event, Priority  # noqa: E402
from mailsite import supervisor  # noqa: E402


def submit(count: str, priority: str = "default") -> dict:
    """Submits messages one by one, as each request does. The first one's id tells this lot from those before."""
    ids = []
    for number in range(int(count)):
        draft = Draft.clean(message.fields(number))
        ids += EmailRequest.objects.submit([draft], origin="a benchmark", priority=Priority[priority.upper()])
    return {"first": str(ids[0].pk)}


def drained(first: str) -> dict:
    """When the first message of a lot was claimed and the last one finished, and in which states they all are."""
    lot = EmailRequest.objects.filter(pk__gte=first)
    states = dict(lot.order_by().values_list("state").annotate(Count("pk")))
    claimed = Event.objects.filter(email__gte=first, kind=Event.Kind.CLAIMED).aggregate(first=Min("at"))
    finished = lot.aggregate(last=Max("finished_at"))
    return {
        "states": states,
        "claimed": claimed["first"] and claimed["first"].timestamp(),
        "finished": finished["last"] and finished["last"].timestamp(),
    }


def web(port: str) -> None:
    """Becomes the web server, by the command that `manage.py run` uses."""
    command = supervisor.web(("127.0.0.1", int(port))).command
    os.execv(command[0], command)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
