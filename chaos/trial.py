"""One run: everything is started, the storm rages while clients submit, all settles, and the report is made."""

import logging
import resource
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from django.db import DatabaseError, connection

from chaos.clients import Clients
from chaos.ports import free_port
from chaos.relay import Relay
from chaos.report import Report
from chaos.storm import Storm
from chaos.world import Broken, World
from emails.models import EmailRequest
from emails.states import FINISHED, State


def run(options: Namespace, relay_port: int, postgresql: Path | None, when_over: Callable[[], None]) -> bool:
    """True if every promise was kept. `when_over` is called before all that was started is ended."""
    logging.disable()  # the parts' logs tell all; the harness itself looks at stores that are away on purpose
    allow_open_files(4096)
    world = World(free_port(), options.worker, postgresql)
    relay = Relay(relay_port, options.seed)
    try:
        report = test(options, world, relay)
        print(report, flush=True)
        return not report.failed
    except (Broken, OSError) as problem:
        print(f"The test could not be made: {problem}", flush=True)
        return False
    finally:
        when_over()
        relay.close()
        world.end()


def test(options: Namespace, world: World, relay: Relay) -> Report:
    storm = Storm(world, relay, options.seed, options.kills, options.gap)
    relay.open()
    token = world.start()
    clients = Clients(world.web_port, token, options.seed, options.mails, lambda: storm.progress)
    begin = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {len(clients.accepted):>6} accepted  {what}", flush=True)

    clients.start()
    for blow in storm.rage():
        say(blow)
    relay.polite = True
    say("the noise stops")
    calm = time.monotonic()
    settled = world.run_until(lambda: clients.done and world.is_calm and is_settled(), options.patience)
    say("all is settled" if settled else "NOT SETTLED")
    clients.give_up()
    print(
        f"\n{options.database}, policy {options.policy}, seed {options.seed}: {options.mails} mails in "
        f"{calm - begin:.0f} s, settled {time.monotonic() - calm:.0f} s later"
        f"\n  blows      {storm.summary}\n  SIGKILLs   {world.summary}\n  mishaps    {relay.summary}\n"
    )
    return Report(world, relay, clients, options.policy)


def is_settled() -> bool:
    rest = EmailRequest.objects.exclude(state__in=FINISHED).exclude(state=State.UNKNOWN, due_at=None)
    try:
        return not rest.exists()
    except DatabaseError:
        return False
    finally:
        connection.close()


def allow_open_files(number: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard) if hard > 0 else number, hard))
