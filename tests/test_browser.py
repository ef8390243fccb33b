"""A person with a browser, on a desk and on a phone, before a copy of Mailsite that `manage.py run` has started."""

import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import BrowserContext, Page, expect

ZONE = "Asia/Tokyo"
WIDTHS = {"desk": 1280, "phone": 390}
PATIENCE = 20_000  # milliseconds that a fact may take to show itself

expect.set_options(timeout=PATIENCE)


@pytest.fixture(params=WIDTHS)
def context(browser, mailsite, request) -> Iterator[BrowserContext]:
    size = {"width": WIDTHS[request.param], "height": 800}
    context = browser.new_context(base_url=mailsite.url, viewport=size, timezone_id=ZONE)
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def page(context) -> Iterator[Page]:
    """A tab in which nothing may go wrong unseen."""
    page = context.new_page()
    page.errors = []
    page.on("console", lambda said: page.errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield page
    assert page.errors == []


@pytest.fixture(scope="module")
def cookies(browser, mailsite) -> list:
    """Of somebody who came by the link that `manage.py run` prints."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(re.search(r"To log in, once +(\S+)", mailsite.said)[1])
    expect(page).to_have_url(f"{mailsite.url}/")
    cookies = context.cookies()
    context.close()
    return cookies


@pytest.fixture
def member(page, context, cookies) -> Page:
    """A tab of somebody who is logged in."""
    context.add_cookies(cookies)
    return page


def fits(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{page.url} is wider than the screen"


def write(page: Page, subject: str, html: str = "", to: str = "moss@example.com") -> None:
    page.goto("/send")
    fill(page, subject, html, to)
    fits(page)
    page.get_by_role("button", name="Send").click()


def fill(page: Page, subject: str, html: str = "", to: str = "moss@example.com") -> None:
    page.get_by_label("From").fill("Jen <jen@example.com>")
    page.get_by_label("To", exact=True).fill(to)
    page.get_by_label("Subject").fill(subject)
    page.get_by_label("Text").fill("Have you tried turning it off and on again?")
    page.get_by_label("HTML").fill(html)


def test_a_mail_goes_from_the_form_to_the_sandbox(member):
    member.goto("/messages")
    fits(member)
    write(member, "Hello", "<h1>A fine <em>mail</em></h1>")
    expect(member).to_have_url(re.compile("/messages/"))
    expect(member.locator("#state")).to_contain_text("Sent")  # by itself
    expect(member.locator("#why")).to_contain_text("Sent at")
    expect(member.locator(".timeline")).to_contain_text("250 2.0.0 OK: kept in the sandbox")
    expect(member.frame_locator("iframe").get_by_role("heading")).to_have_text("A fine mail")
    for view in ("Text", "Headers", "Raw", "HTML"):
        member.get_by_label(view, exact=True).check()
        fits(member)
    member.get_by_role("link", name="Open it in the sandbox").click()
    expect(member.get_by_role("heading", name="Hello")).to_be_visible()
    expect(member.frame_locator("iframe").get_by_role("heading")).to_have_text("A fine mail")
    fits(member)
    member.get_by_role("navigation").get_by_role("link", name="Sandbox").click()
    expect(member.get_by_role("link", name="moss@example.com Hello").first).to_be_visible()
    fits(member)


def test_the_relay_is_checked_step_by_step(member):
    member.goto("/messages")
    member.get_by_role("link", name="Sandbox: nothing leaves this machine").click()
    fits(member)
    member.get_by_label("Test mail to").fill("jen")
    member.get_by_role("button", name="Check the relay").click()
    expect(member.locator(".errorlist")).to_contain_text("not a valid email address")
    member.get_by_label("Test mail to").fill("jen@example.com")
    member.get_by_role("button", name="Check the relay").click()
    expect(member.get_by_role("heading", name="The relay has taken the mail for jen@example.com")).to_be_visible()
    expect(member.locator(".timeline .ok").filter(has_text="Greeting")).to_contain_text("220 sandbox")
    expect(member.locator(".timeline .ok").last).to_contain_text("kept in the sandbox")
    fits(member)


def test_errors_are_shown_and_what_was_typed_is_kept(member):
    write(member, "Kept", to="moss")
    expect(member.get_by_role("alert")).to_contain_text("1 field needs a look")
    expect(member.get_by_label("To", exact=True)).to_have_value("moss")
    expect(member.get_by_label("To", exact=True)).to_have_accessible_description(
        re.compile("not a valid email address")
    )
    expect(member.get_by_label("Subject")).to_have_value("Kept")
    fits(member)


def test_files_and_a_time_in_the_browsers_zone(member, tmp_path):
    for name in ("bill.pdf", "terms.txt"):
        (tmp_path / name).write_bytes(bytes(2048))
    member.goto("/send")
    expect(member.locator("#zone")).to_have_text(ZONE)
    fill(member, "Later")
    member.get_by_label("Attachments").set_input_files(sorted(tmp_path.iterdir()))
    expect(member.locator(".files")).to_have_text("bill.pdf (2.0 KB), terms.txt (2.0 KB); together 4.0 KB")
    member.get_by_label("Time").fill("2020-01-01T09:00")
    member.get_by_role("button", name="Send").click()
    expect(member.get_by_label("Time")).to_have_accessible_description(re.compile("is in the past"))
    expect(member.locator(".files")).to_contain_text("Choose the files again")
    fits(member)
    moment = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=2)
    member.get_by_label("Time").fill(f"{moment.astimezone(ZoneInfo(ZONE)):%Y-%m-%dT%H:%M}")
    member.get_by_label("Attachments").set_input_files(sorted(tmp_path.iterdir()))
    member.get_by_role("button", name="Send").click()
    expect(member.locator("#state")).to_contain_text("Scheduled")
    expect(member.locator("#why")).to_contain_text("Scheduled for")
    expect(member.locator(".envelope")).to_contain_text(f"{moment.day} {moment:%B %Y, %H:%M} UTC")
    fits(member)
    with member.expect_download() as download:
        member.get_by_role("link", name="bill.pdf").click()
    assert download.value.path().read_bytes() == bytes(2048)


def test_a_key_works_from_a_shell(member):
    member.goto("/send")
    member.get_by_role("link", name="make one").click()
    fits(member)
    member.get_by_role("button", name="Make an API key").click()
    line = member.locator("#curl").text_content()
    fits(member)
    member.get_by_role("button", name="Copy").nth(1).click()
    expect(member.get_by_role("button", name="Copied")).to_be_visible()
    assert '{"id":' in subprocess.check_output(["sh", "-c", f"{line} --silent"], text=True)


def test_strangers_html_runs_and_loads_nothing(member):
    script = "<script>top.hacked = 1</script><img src=/favicon.ico onerror='top.hacked = 1' onload='top.hacked = 1'>"
    write(member, "<img src=x onerror='hacked = 1'>", f"<p>Hi</p>{script}")
    expect(member.locator("#state")).to_contain_text("Sent")
    expect(member.frame_locator("iframe").locator("p")).to_have_text("Hi")
    assert member.evaluate("window.hacked") is None
    member.get_by_role("link", name="Open it in the sandbox").click()
    expect(member.frame_locator("iframe").locator("p")).to_have_text("Hi")
    assert member.evaluate("window.hacked") is None
    assert all("Security Policy" in error or "sandboxed" in error or "csp" in error for error in member.errors)
    member.errors.clear()


def test_the_playground_shows_why_a_queue_exists(page):
    page.goto("/playground")
    fits(page)
    page.locator("#queued").get_by_label("To").press("Enter")
    expect(page.locator("#queued-result")).to_contain_text(re.compile(r"Answered in \d+ ms"))
    expect(page.locator("#live")).to_contain_text("Picked up")
    expect(page.locator("#live")).to_contain_text("1 message in hand")
    page.get_by_role("button", name="Send in the request").click()
    expect(page.locator("#direct-result")).to_contain_text("Waiting for")
    expect(page.locator("#direct-result")).to_contain_text(re.compile(r"Answered in 1\.\d s"))
    expect(page.locator("#live .mails li").first).to_contain_text("Sent")
    fits(page)


def test_the_dashboard_shows_the_job_of_a_slow_email(member, mailsite):
    answer = member.request.get("/send-email/dashboard@example.com").json()
    member.goto(f"/messages/{answer['job_id']}")
    expect(member.locator("#state")).to_contain_text("Sent")
    member.get_by_role("link", name="The RQ job in the dashboard").click()
    expect(member.locator("#content-main")).to_contain_text("finished")
    expect(member.get_by_text("Email to dashboard@example.com: A slow email")).to_be_visible()
    member.get_by_role("link", name="Its message").click()
    expect(member).to_have_url(f"{mailsite.url}/messages/{answer['job_id']}")
    member.goto("/admin/django_rq/dashboard/")
    expect(member.get_by_role("link", name="default").first).to_be_visible()
    said = mailsite.said
    for line in ("Starting to send email to dashboard@example.com...", "Email sent to dashboard@example.com!"):
        assert line in said


def test_the_operators_desk_opens(member):
    for path in ("/admin/", "/admin/emails/emailrequest/", "/admin/emails/apikey/", "/admin/emails/worker/"):
        member.goto(path)
        expect(member.get_by_role("navigation", name="Pages").get_by_role("link", name="Admin")).to_be_visible()
        fits(member)


def test_an_operator_cancels_all_that_match_after_a_page_that_says_how_many(member):
    for subject in ("One", "Two"):
        member.goto("/send")
        fill(member, subject, to="moss@later.example")
        moment = datetime.now(ZoneInfo(ZONE)) + timedelta(days=2)
        member.get_by_label("Time").fill(f"{moment:%Y-%m-%dT%H:%M}")
        member.get_by_role("button", name="Send").click()
        expect(member.locator("#state")).to_contain_text("Scheduled")
    member.goto("/admin/emails/emailrequest/?state=scheduled")
    fits(member)
    member.get_by_label("Recipient's domain").fill("later.example")
    member.get_by_role("button", name="Filter").click()
    expect(member).to_have_url(re.compile("state=scheduled.*domain=later.example"))
    expect(member.locator("#result_list tbody tr")).to_have_count(2)
    fits(member)
    member.locator("#action-toggle").check()
    member.get_by_label("Action").first.select_option("Cancel")
    member.get_by_role("button", name="Run").first.click()
    expect(member.locator("#content")).to_contain_text("Cancel: 2 emails. Each is taken back and is not sent.")
    fits(member)
    member.get_by_role("button", name="Cancel: 2 emails").click()
    expect(member.locator(".messagelist")).to_contain_text("Canceled: 2 emails.")
    member.goto("/admin/emails/emailrequest/?state=canceled&domain=later.example")
    member.locator("#result_list tbody a").first.click()
    expect(member.locator("#events-group, #events_set-group").first).to_contain_text("by admin")


def test_the_keyboard_is_enough(member):
    member.goto("/messages")
    member.keyboard.press("Tab")
    expect(member.get_by_role("link", name="Skip to the content")).to_be_focused()
    member.keyboard.press("Enter")
    member.keyboard.press("Tab")
    expect(member.get_by_label("Recipient or id")).to_be_focused()


def test_all_works_without_javascript(browser, mailsite):
    context = browser.new_context(base_url=mailsite.url, java_script_enabled=False)
    page = context.new_page()
    page.goto(mailsite.manage("login"))
    write(page, "Without")
    expect(page.locator("#state")).to_contain_text("Sent")  # the page renews itself
    page.goto("/playground")
    page.get_by_role("button", name="Send in the request").click()
    expect(page.locator("#direct-result")).to_contain_text("Answered in 1")
    page.get_by_role("button", name="Send by the queue").click()
    expect(page.locator("body")).to_contain_text('"message": "Email sending task has been queued."')
    page.goto("/sandbox")
    page.get_by_role("link", name="Delete all").click()
    page.get_by_role("button", name="Delete all").click()
    expect(page.get_by_role("status")).to_contain_text("The sandbox is empty")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{mailsite.url}/login")
    context.close()


def test_the_overview_shows_what_is_sent_by_itself(member, mailsite):
    member.goto("/messages")
    write(member, "Hello", "<p>Hello</p>")
    expect(member.locator("#state")).to_contain_text("Sent")
    member.goto("/")
    expect(member.locator(".verdict")).to_contain_text("All is well")
    fits(member)
    figure = member.locator("figcaption strong").first
    before = int(figure.text_content().replace(",", ""))
    other = member.context.new_page()
    other.goto("/messages")
    write(other, "Hello again", "<p>Hello</p>")
    expect(other.locator("#state")).to_contain_text("Sent")
    expect(figure).to_have_text(f"{before + 1:,}")  # without a reload
    other.close()
