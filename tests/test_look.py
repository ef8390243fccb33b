"""All pages, with the demo's mail on them: nothing for axe to find, nothing wider than the screen; and the keys."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from emails.states import HELD, State
from tests.running import Copy

WIDTHS = {"desk": 1280, "phone": 390}
PATIENCE = 20_000  # milliseconds that a page that renews itself may take to
OURS = (
    "/", "/messages", "/send", "/sandbox", "/sandbox/delete", "/playground", "/relay", "/requests", "/nothing", "/docs",
    "/keys", "/messages?q=nobody", "/sandbox?q=nobody", "/requests?status=5",
)  # fmt: skip
ADMINS = (
    "/admin/",
    "/admin/emails/emailrequest/",
    "/admin/emails/hold/",
    "/admin/django_rq/dashboard/",
    "/admin/emails/apikey/",
    "/admin/emails/emailrequest/{}/change/",
)


@pytest.fixture(scope="module")
def demo() -> Iterator[Copy]:
    with tempfile.TemporaryDirectory(prefix="mailsite-") as folder:
        copy = Copy(Path(folder))
        copy.start()
        copy.manage("demo")
        yield copy
        copy.stop()


@pytest.fixture(scope="module")
def login(browser, demo) -> dict:
    context = browser.new_context()
    context.new_page().goto(demo.manage("login"))
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def context(browser, demo, login) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=demo.url, storage_state=login)
    yield context
    context.close()


@pytest.fixture
def page(context) -> Page:
    return context.new_page()


def newest(demo: Copy, state: State) -> str:
    return demo.api.get("/emails", params={"state": state, "limit": 1}).json()["data"][0]["id"]


def look(page: Page, path: str, **options) -> None:
    """Options are those of axe."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(path)
        expect(page.get_by_role("heading", level=1).first).to_be_attached()  # the API's page makes its own
        found = Axe().run(page, {"exclude": [[".swagger-ui"]]}, options or None)  # which others make
        assert not found.violations_count, f"{path}, {scheme}: {found.generate_report()}"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the screen"


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_axe_finds_nothing_on_our_pages(page, demo, width):
    page.set_viewport_size({"width": width, "height": 800})
    for path in OURS:
        look(page, path)
    for state in sorted(set(State) - HELD - {State.QUEUED}):
        look(page, f"/messages/{newest(demo, state)}")
    look(page, f"/sandbox/{demo.api.get('/sandbox/messages').json()['data'][0]['id']}")


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_axe_finds_no_breach_of_the_guidelines_in_the_admin(page, demo, width):
    page.set_viewport_size({"width": width, "height": 800})
    for path in ADMINS:
        look(page, path.format(newest(demo, State.DEFERRED)), runOnly=["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"])


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_axe_finds_nothing_where_nobody_is_logged_in(browser, demo, width):
    page = browser.new_page(base_url=demo.url, viewport={"width": width, "height": 800})
    for path in ("/login", "/login/nonsense", "/playground", "/nothing"):
        look(page, path)
    page.close()


def test_keys_search_lead_to_pages_and_show_themselves(page):
    page.goto("/sandbox")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("g?/")  # a key like any other in a field
    expect(page.get_by_role("searchbox")).to_have_value("g?/")
    page.get_by_role("heading", name="Sandbox").click()
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys).to_contain_text("g s")
    assert not Axe().run(page).violations_count
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page).to_have_url(re.compile("/send$"))
    page.keyboard.press("/")  # where there is no search, that of the mail
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.get_by_role("button", name="Keys").click()
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


@pytest.mark.parametrize(
    "path", ["/admin/emails/emailrequest/", "/admin/emails/apikey/add/", "/admin/django_rq/dashboard/"]
)
def test_the_keys_work_in_the_admin_too(page, path):
    problems = []
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path)
    page.get_by_role("heading", level=1).first.click()  # away from a field that has the focus
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("g m")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("m")
    expect(page).to_have_url(re.compile("/messages$"))
    assert not problems


def test_the_search_of_the_admins_list_has_its_key(page):
    page.goto("/admin/emails/emailrequest/")
    page.keyboard.press("/")
    expect(page.locator("#searchbar")).to_be_focused()


def test_a_mail_in_the_sandbox_leads_back_to_its_message(page, demo):
    sent = newest(demo, State.SENT)
    page.goto(f"/messages/{sent}")
    page.get_by_role("link", name="Open it in the sandbox").click()
    page.get_by_role("link", name="its message and timeline").click()
    expect(page).to_have_url(re.compile(f"/messages/{sent}$"))


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_admins_list_of_keys_is_seen_whole(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/admin/emails/apikey/")
    assert page.locator(".results").evaluate("list => list.scrollWidth <= list.clientWidth")


def test_the_playgrounds_answer_moves_nothing(page):
    for width in WIDTHS.values():
        page.set_viewport_size({"width": width, "height": 800})
        page.goto("/playground")
        heading = page.get_by_role("heading", name="What happens behind it")
        before = heading.bounding_box()
        page.get_by_role("button", name="Send by the queue").click()
        expect(page.locator("#queued-result")).to_contain_text("Answered in")
        assert heading.bounding_box() == before


@pytest.mark.parametrize("path", ["/", "/messages/{}", "/playground"])
def test_a_page_that_renews_itself_says_when_it_may_be_old(page, context, demo, path):
    page.goto(path.format(newest(demo, State.DEFERRED)))
    stale = page.get_by_role("alert").filter(has_text="may be old")
    for ends in (lambda: context.set_offline(True), lambda: page.route("**", lambda route: route.fulfill(status=503))):
        expect(stale).to_have_count(0, timeout=PATIENCE)
        ends()
        words = re.compile(r"^No answer since \d\d:\d\d \S+: what stands here may be old\.$")
        expect(stale).to_have_text(words, timeout=PATIENCE)
        assert page.locator("main > :last-child").evaluate("part => getComputedStyle(part).filter") == "grayscale(1)"
        context.set_offline(False)
        page.unroute("**")
    expect(stale).to_have_count(0, timeout=PATIENCE)


def test_an_answer_that_never_comes_is_none(page):
    page.goto("/")
    page.route("**/overview/live*", lambda route: None)
    expect(page.get_by_role("alert")).to_contain_text("may be old", timeout=PATIENCE)
    page.unroute_all(behavior="ignoreErrors")
