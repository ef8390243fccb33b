"""Ways in: one-time links for the local administrator, and passwords for others."""

import os
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest
from django.contrib.auth import get_user_model
from django.core import signing
from django.db import connection
from django.test import Client

from emails import login
from tests import conftest

pytestmark = pytest.mark.django_db


def path_of(url: str) -> str:
    return urlsplit(url).path


@pytest.fixture
def link() -> str:
    return path_of(login.one_time_url())


def test_a_link_logs_the_local_administrator_in(client, link):
    response = client.get(link)
    assert (response.status_code, response["Location"]) == (302, "/")
    user = client.get("/").wsgi_request.user
    assert (user.username, user.is_superuser, user.has_usable_password()) == ("admin", True, False)


def test_the_link_begins_with_the_public_url(settings):
    settings.PUBLIC_URL = "https://mail.example.com"
    assert login.one_time_url().startswith("https://mail.example.com/login/")


def test_a_used_link_is_refused_in_a_sentence(client, link):
    client.get(link)
    response = Client().get(link)
    assert response.status_code == 410
    assert "This login link has been used already." in response.text
    assert "make login" in response.text


def test_the_other_links_that_were_open_end_with_a_login(client, link):
    other = path_of(login.one_time_url())
    client.get(link)
    assert Client().get(other).status_code == 410


def test_a_new_link_works_after_an_old_one(client, link):
    client.get(link)
    other = Client()
    assert other.get(path_of(login.one_time_url())).status_code == 302
    assert other.get("/").status_code == 200


def test_asking_for_the_head_of_a_link_does_not_use_it_up(client, link):
    assert client.head(link).status_code == 405
    assert client.get(link).status_code == 302


def test_an_expired_link_is_refused_in_a_sentence(client, link, monkeypatch):
    later = signing.time.time() + login.LIFETIME + 1
    monkeypatch.setattr(signing.time, "time", lambda: later)  # the clock, not our code
    response = client.get(link)
    assert response.status_code == 410
    assert "This login link has expired." in response.text
    assert "_auth_user_id" not in client.session


@pytest.mark.parametrize("token", ["garbage", "a:b:c", "WzEsbnVsbF0:1xW9Op:Uf0hDdrp6y_6KLTNV32KbUgag85GZJq1LwO"])
def test_a_link_from_elsewhere_is_refused_in_a_sentence(client, token):
    response = client.get(f"/login/{token}")
    assert response.status_code == 403
    assert "This login link was not made here, or is incomplete." in response.text


def test_a_link_signed_for_another_purpose_is_refused(client, link):
    user = get_user_model().objects.get(username="admin")
    token = signing.dumps([user.pk, None], salt="something else")
    assert client.get(f"/login/{token}").status_code == 403


def test_someone_elses_link_logs_nobody_in_once_their_account_is_closed(client):
    user = get_user_model().objects.create_user("jen")
    token = login.token_for(user)
    get_user_model().objects.update(is_active=False)
    assert client.get(f"/login/{token}").status_code == 410
    assert "_auth_user_id" not in client.session


@pytest.mark.django_db(transaction=True)
def test_of_two_simultaneous_uses_of_a_link_one_wins(link):
    codes, barrier = [], threading.Barrier(4)

    def use() -> None:
        client = Client()
        barrier.wait()
        codes.append(client.get(link).status_code)
        connection.close()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [302, 410, 410, 410]


@pytest.mark.django_db(transaction=True)
def test_the_command_prints_the_link_and_nothing_else(client):
    command = [sys.executable, "manage.py", "login"]
    environment = {**os.environ, "DATABASE_URL": conftest.test_database_url()}
    printed = subprocess.run(
        command, cwd=conftest.ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    [url] = printed.splitlines()
    assert client.get(path_of(url)).status_code == 302


def test_the_login_page_names_the_command_and_keeps_where_one_was_going(client):
    response = client.get("/send", follow=True)
    assert response.redirect_chain == [("/login?next=/send", 302)]
    assert "make login" in response.text
    assert '<input type="hidden" name="next" value="/send">' in response.text


def test_a_password_logs_in_and_leads_on(client):
    get_user_model().objects.create_user("jen", password="the internet")
    response = client.post("/login", {"username": "jen", "password": "the internet", "next": "/send"})
    assert response["Location"] == "/send"


@pytest.mark.parametrize("next", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_next_leads_to_no_other_site(client, next):
    get_user_model().objects.create_user("jen", password="the internet")
    response = client.post("/login", {"username": "jen", "password": "the internet", "next": next})
    assert response["Location"] == "/"
    assert client.get("/login", {"next": next})["Location"] == "/"


def test_the_way_out(client, link):
    client.get(link)
    assert client.get("/logout").status_code == 405
    assert client.post("/logout")["Location"] == "/login"
    assert client.get("/").status_code == 302


def test_a_fragment_after_the_end_of_a_login_reloads_its_page(client):
    response = client.get("/login?next=/messages/x/status", headers={"HX-Request": "true"})
    assert response["HX-Refresh"] == "true"
