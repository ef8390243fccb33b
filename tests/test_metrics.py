"""/metrics tells Prometheus what was counted and where things stand, to those who may ask."""

import json
import re
from datetime import timedelta
from ipaddress import ip_network

import pytest
import yaml
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from emails.models import EmailRequest, Hold, Worker
from tests.conftest import ROOT
from tests.test_store import said, settle, transmit

pytestmark = [pytest.mark.stores, pytest.mark.django_db]

TOKEN = "0123456789abcdef"


@pytest.fixture
def scraped(client, settings):
    """What a scrape tells: values by name and labels, these in the order of the alphabet."""
    settings.METRICS_TOKEN = TOKEN

    def scrape() -> dict[tuple, float]:
        answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200 and answer["Content-Type"].startswith("text/plain; version=")
        families = text_string_to_metric_families(answer.text)
        samples = [sample for family in families for sample in family.samples]
        return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}

    return scrape


def test_what_becomes_of_mail_is_told_by_queue(scraped, submit):
    moss = Worker.objects.create(name="moss", host="here", pid=1)
    sent, bounced, deferred = (submit(priority=0) for _ in range(3))
    submit(priority=2)
    for email, code in ((sent, 250), (bounced, 550), (deferred, 451)):
        [claimed] = transmit([email.pk], moss)
        settle(claimed, said(claimed, code), moss)
    told = scraped()
    assert told["mailsite_accepted_total", "high"] == 3
    assert told["mailsite_accepted_total", "low"] == 1
    assert told["mailsite_ended_total", "high", "sent"] == told["mailsite_ended_total", "bounced", "high"] == 1
    assert told["mailsite_setbacks_total", "deferred", "high"] == 1
    assert told["mailsite_attempts_total", "high"] == 3
    assert told["mailsite_queue_depth", "high"] == told["mailsite_queue_depth", "low"] == 1
    assert told["mailsite_queue_depth", "default"] == 0
    assert told["mailsite_queue_oldest_seconds", "low"] > 0
    assert told["mailsite_sent_after_seconds_count", "high"] == 1
    assert told["mailsite_sent_after_seconds_bucket", "+Inf", "high"] == 1
    assert told["mailsite_sent_after_seconds_bucket", "14400.0", "high"] == 1


def test_workers_pauses_and_the_relay_s_trouble_are_told(scraped):
    before = scraped()
    assert before["mailsite_workers",] == before["mailsite_paused", "low"] == 0
    assert before["mailsite_relay_usable", "sandbox"] == 1
    Worker.objects.create(name="moss", host="here", pid=1)
    Hold.objects.create(target="low", reason="night", by="moss")
    Hold.note_trouble("Connection refused (connecting)")
    after = scraped()
    assert after["mailsite_workers",] == after["mailsite_paused", "low"] == 1
    assert after["mailsite_relay_usable", "sandbox"] == 0


def test_mail_that_waits_for_a_decision_is_told(scraped, submit):
    submit(), submit()
    EmailRequest.objects.update(state="unknown")
    assert scraped()["mailsite_undecided",] == 0  # sent again by itself
    EmailRequest.objects.update(due_at=None)
    assert scraped()["mailsite_undecided",] == 2


@pytest.mark.parametrize(
    ("header", "client_address", "status"),
    [
        (f"Bearer {TOKEN}", "203.0.113.9", 200),
        ("Bearer wrong", "203.0.113.9", 401),
        ("", "203.0.113.9", 401),
        ("", "10.1.2.3", 200),
        ("Bearer ключ", "203.0.113.9", 401),
    ],
)
def test_only_those_may_ask_who_have_the_token_or_an_address_that_may(client, settings, header, client_address, status):
    settings.METRICS_TOKEN, settings.METRICS_ALLOW = TOKEN, [ip_network("10.0.0.0/8")]
    answer = client.get("/metrics", headers={"Authorization": header}, REMOTE_ADDR=client_address)
    assert answer.status_code == status
    assert ("mailsite_workers" in answer.text) == (status == 200)


def test_by_default_nobody_may(client):
    answer = client.get("/metrics", headers={"Authorization": "Bearer "})
    assert answer.status_code == 404 and "METRICS_TOKEN" in answer.text


def test_the_dashboard_and_the_alerts_name_metrics_that_there_are(scraped):
    names = {name for name, *_ in scraped()}
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    rules = yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    used = {name for expression in asked for name in re.findall(r"mailsite_\w+", expression)}
    assert len(used) > 8 and used <= names
    described = set(re.findall(r"`(mailsite_\w+)", (ROOT / "docs" / "operating.md").read_text()))
    assert described == {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


def test_a_message_that_waits_for_its_time_is_not_overdue(scraped, submit):
    submit(scheduled_at=(timezone.now() + timedelta(days=1)).isoformat())
    told = scraped()
    assert told["mailsite_queue_depth", "default"] == 1
    assert told["mailsite_queue_oldest_seconds", "default"] == 0
