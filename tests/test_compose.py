"""What docker-compose.yml and the Dockerfile promise, as far as it shows without an engine.

The containers' own commands run here too, by hand, with the environment that compose would give them.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands, load_command_class

from emails.drafts import Draft
from emails.models import EmailRequest, SandboxMessage
from tests import conftest
from tests.environment import wait_until
from tests.test_supervisor import free_port

COMPOSE = yaml.safe_load((settings.BASE_DIR / "docker-compose.yml").read_text())
DOCKERFILE = (settings.BASE_DIR / "Dockerfile").read_text()
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
GIVEN = {
    "PUBLIC_URL": "https://mail.example.com",
    "SECRET_KEY": "k" * 50,
    "POSTGRES_PASSWORD": "an @ and a / are fine",
    "ALLOWED_HOSTS": "mail.internal",
}
VARIABLE = re.compile(r"\$\{(\w+)(:[?-])?([^}]*)\}")


class Missing(Exception):
    pass


def filled_in(text: str, given: dict[str, str]) -> str:
    """Compose's ${NAME}, ${NAME:-default} and ${NAME:?sentence}."""

    def value(match: re.Match) -> str:
        name, kind, rest = match.groups()
        if kind == ":?" and not given.get(name):
            raise Missing(f"{name}: {rest}")
        return given.get(name) or rest

    return VARIABLE.sub(value, text)


def environment(service: str, given: dict[str, str]) -> dict[str, str]:
    """What the service's processes see; a name without a value is passed on where it is set."""
    variables = {
        name: given.get(name) if value is None else filled_in(str(value), given)
        for name, value in OURS[service]["environment"].items()
    }
    return {name: value for name, value in variables.items() if value is not None}


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_shows_its_health_or_runs_once(name):
    service = SERVICES[name]
    if service.get("restart") == "no":
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_the_web_is_healthy_when_it_can_accept_mail_and_the_image_when_it_answers_at_all():
    """Plain compose shows health and restarts nothing for it; of others that run the image nobody knows."""
    assert "/health/ready" in SERVICES["web"]["healthcheck"]["test"][-1]
    assert re.search(r"^HEALTHCHECK .*\\\n .*/health/live", DOCKERFILE, re.MULTILINE)
    for name, service in OURS.items():  # none but the web's answers by HTTP
        assert service["healthcheck"].get("disable") or name == "web" or "http:" not in str(service["healthcheck"])


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_exist_and_are_waited_for(name):
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        once = SERVICES[needed].get("restart") == "no"
        assert how == {"condition": "service_completed_successfully" if once else "service_healthy"}


def test_a_worker_may_finish_what_is_on_the_wire():
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > settings.GRACE


def test_there_may_be_many_workers():
    assert not {"container_name", "ports", "hostname"} & SERVICES["worker"].keys()


def test_only_the_web_is_reachable_from_outside():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]


def test_what_must_last_is_kept_in_named_volumes():
    kept = {name: service["volumes"] for name, service in SERVICES.items() if "volumes" in service}
    assert kept.keys() == {"db", "valkey"}
    for (volume,) in kept.values():
        assert volume.split(":")[0] in COMPOSE["volumes"]


def test_the_queue_is_durable_and_never_evicts():
    command = SERVICES["valkey"]["command"]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


@pytest.mark.parametrize("name", ["PUBLIC_URL", "SECRET_KEY", "POSTGRES_PASSWORD"])
def test_a_missing_secret_refuses_the_start_with_a_sentence(name):
    given = {key: value for key, value in GIVEN.items() if key != name}
    with pytest.raises(Missing, match=f"{name}: Set {name} to "):
        environment("web", given)


@pytest.mark.parametrize("name", OURS)
def test_every_process_sees_the_same_settings(name):
    assert environment(name, GIVEN) == environment("web", GIVEN)


def test_every_variable_is_one_that_somebody_reads():
    source = (settings.BASE_DIR / "mailsite" / "settings.py").read_text()
    known = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source)) | {"PGPASSWORD"}  # the latter by PostgreSQL's client
    assert OURS["web"]["environment"].keys() <= known


@pytest.mark.parametrize("name", [name for name, service in OURS.items() if "command" in service])
def test_commands_are_ours(name):
    python, manage, command, *arguments = shlex.split(OURS[name]["command"])
    assert (python, manage) == ("python", "manage.py")
    load_command_class(get_commands()[command], command).create_parser(manage, command).parse_args(arguments)


def run(service: str, code: str, **changes: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "MAILSITE_DATA": os.environ["MAILSITE_DATA"]}
        | environment(service, GIVEN)
        | changes,
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
    )


SHOW = """
import json
from mailsite import settings
print(json.dumps([settings.ALLOWED_HOSTS, settings.CSRF_TRUSTED_ORIGINS, str(settings.RELAY), settings.RELAY.port,
                  settings.PLAYGROUND, settings.DEBUG, settings.DATABASES["default"]["HOST"]]))
"""


def test_the_settings_accept_what_compose_gives():
    done = run("web", SHOW)
    assert done.returncode == 0, done.stderr
    hosts, origins, relay, port, playground, debug, database = json.loads(done.stdout)
    assert {"mail.example.com", "mail.internal", "localhost"} <= set(hosts)
    assert "https://mail.example.com" in origins
    assert (relay, port, playground, debug, database) == ("sandbox", 2525, False, False, "db")


@pytest.mark.parametrize("name", ["SECRET_KEY", "PUBLIC_URL"])
def test_without_compose_too_a_missing_secret_is_a_sentence(name):
    done = run("web", "import mailsite.wsgi", **{name: ""})
    assert done.returncode == 1
    assert done.stderr == (
        f"HOST=0.0.0.0 opens Mailsite to other machines: set {name} too "
        f"({'50 random characters' if name == 'SECRET_KEY' else 'https://mail.example.com'}).\n"
    )


@pytest.mark.stores
def test_the_containers_own_commands_work_together_and_show_their_health(transactional_db, tmp_path):
    """As compose would run them, on the tests' stores, and with ports of this machine for the containers' own."""
    ports = {"2525": str(free_port()), "8000": str(free_port())}
    variables = {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"} | environment("web", GIVEN)
    variables |= {
        "MAILSITE_DATA": str(tmp_path),
        "DATABASE_URL": conftest.test_database_url(),
        "REDIS_URL": f"unix://{settings.VALKEY_SOCKET}",
        "EMAIL_URL": f"sandbox://127.0.0.1:{ports['2525']}",
    }

    def here(command: list[str]) -> list[str]:
        return [re.sub("2525|8000", lambda match: ports[match[0]], word) for word in command]

    def start(command: list[str]) -> subprocess.Popen:
        return subprocess.Popen(here(command), env=variables, cwd=settings.BASE_DIR, start_new_session=True)

    (web,) = re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    commands = {name: shlex.split(OURS[name]["command"]) for name in ("sandbox", "worker")} | {"web": json.loads(web)}
    assert start(shlex.split(OURS["migrate"]["command"])).wait(60) == 0
    running = {name: start(command) for name, command in commands.items()}
    try:
        for name, process in running.items():
            kind, *check = OURS[name]["healthcheck"]["test"]
            assert kind == "CMD"
            wait_until(
                lambda check=check: start(check).wait(60) == 0, otherwise=f"{name} does not get healthy", seconds=60
            )
            assert process.poll() is None
        email = EmailRequest.objects.submit(
            [Draft.clean({"from": "a@example.com", "to": "b@example.com", "subject": "Hello", "text": "Hello"})],
            origin="a test",
        )[0]
        wait_until(lambda: SandboxMessage.objects.exists(), f"message {email.pk} does not arrive")
        for process in running.values():
            process.terminate()
        for name, process in running.items():
            assert process.wait(40) == 0, name
    finally:
        for process in running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_image_runs_as_nobody_in_particular_and_holds_only_what_it_needs():
    assert re.search(r"^USER mailsite$", DOCKERFILE, re.MULTILINE)
    copied = {path for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()}
    ignore = (settings.BASE_DIR / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert copied == allowed
    assert "*" in ignore
    for path in copied:
        assert (settings.BASE_DIR / path).exists()
