"""Pictures of a Mailsite of its own with the demo's mail, for docs/screenshots: `make screenshots`.

What differs from run to run (ids, moments, this machine's name) is written over on the page, so that a picture changes
with what it shows.
"""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.environment import wait_until
from tests.running import BROWSERS, ROOT, Copy

FOLDER = ROOT / "docs" / "screenshots"
WIDTHS = (1280, 390)
MOST = 150_000  # bytes of a picture
SAME_EACH_TIME = """({host, now}) => {
  const moment = (text) => {
    const shifted = new Date(Date.parse(`${text.replace(" ", "T")}Z`) - now + Date.UTC(2026, 8, 17, 9, 41));
    return shifted.toISOString().replace("T", " ").slice(0, text.length);
  };
  const today = new Date(now).toISOString().slice(0, 10);
  const clean = (text) => text
    .replace(/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}/g, "01995721-9a40-7c3e-8d15-6f2b70e4a9c8")
    .replace(/\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d(:\\d\\d)?/g, moment)
    .replace(/\\b(\\d\\d:\\d\\d)(?= UTC)/g, (time) => moment(`${today} ${time}`).slice(-5))
    .replace(/ on \\d+ [A-Z][a-z]+(?=[,.;]|$)/g, " on 20 September")
    .replace(/[A-Z][a-z]{2}, \\d\\d [A-Z][a-z]{2} \\d{4} \\d\\d:\\d\\d:\\d\\d/g, "Thu, 17 Sep 2026 09:38:12")
    .replace(/^(\\d+\\sseconds ago|a second ago|now)$/, "a moment ago")
    .replace(/\\b\\d+ ms\\b/g, "5 ms")
    .replace(/\\b1\\.\\d s$/, "1.1 s")
    .replace(/port \\d+/g, "port 2525")
    .replace(/process \\d+/g, "process 4711")
    .replace(new RegExp(`${host}(-\\\\d+-[0-9a-f]{4})?`, "g"), "mail-1-4711-a3f0");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) walker.currentNode.data = clean(walker.currentNode.data);
}"""


def message(copy: Copy) -> str:
    """One that is tried again and again."""
    found = copy.api.get("/emails", params={"state": "deferred"}).json()["data"]
    return next(f"/messages/{email['id']}" for email in found if email["subject"].startswith("Your order"))


def sandboxed(copy: Copy) -> str:
    found = copy.api.get("/sandbox/messages", params={"limit": 100}).json()["data"]
    return next(f"/sandbox/{mail['id']}" for mail in found if mail["subject"].startswith("Invoice"))


def write(page: Page) -> None:
    page.get_by_label("From").fill("Jen <jen@example.com>")
    page.get_by_label("To", exact=True).fill("moss@example.com")
    page.get_by_label("Subject").fill("The printer")
    page.get_by_label("Text").fill("Have you tried turning it off and on again?\n\nJen")


def play(page: Page) -> None:
    for name in ("Send by the queue", "Send in the request"):
        page.get_by_role("button", name=name).click()
    expect(page.locator("#direct-result")).to_contain_text("Answered", timeout=20_000)
    expect(page.locator(".mails .sent").first).to_be_visible(timeout=20_000)


def ask(page: Page) -> None:
    page.get_by_role("button", name="Cancel").click()


def check(page: Page) -> None:
    page.get_by_role("button", name="Check the relay").click()


def shoot(
    page: Page, began: float, name: str, path: str, prepare: Callable[[Page], None] | None = None, dark: bool = False
) -> None:
    page.emulate_media(color_scheme="dark" if dark else "light")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(path)
        if prepare:
            prepare(page)
        for frame in page.frames:
            frame.wait_for_load_state()
        page.evaluate(SAME_EACH_TIME, {"host": socket.gethostname(), "now": began * 1000})
        file = FOLDER / f"{name}-{width}{'-dark' if dark else ''}.png"
        picture = Image.open(BytesIO(page.screenshot(animations="disabled", caret="hide")))
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
        assert file.stat().st_size < MOST, f"{file} is too large"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mailsite-") as folder, sync_playwright() as playwright:
        copy = Copy(Path(folder))
        copy.start()
        try:
            time.sleep(60 - time.time() % 60)  # so that moments fall into the same minutes each time
            began = time.time() // 60 * 60
            copy.manage("demo")
            wait_until(
                lambda: not copy.api.get("/emails", params={"state": "queued"}).json()["data"], "mail is still queued"
            )
            arguments = ["--no-sandbox"] if os.getuid() == 0 else []
            found = next(filter(None, map(shutil.which, BROWSERS)), None)
            browser = playwright.chromium.launch(executable_path=found, args=arguments)
            page = browser.new_page(base_url=copy.url, timezone_id="UTC", locale="en-GB")
            page.goto(copy.manage("login"))
            shoot(page, began, "overview", "/")
            shoot(page, began, "overview", "/", dark=True)
            shoot(page, began, "message", message(copy))
            shoot(page, began, "message", message(copy), dark=True)
            shoot(page, began, "confirmation", message(copy), ask)
            shoot(page, began, "send", "/send", write)
            shoot(page, began, "sandbox", sandboxed(copy))
            shoot(page, began, "admin", "/admin/emails/emailrequest/")
            shoot(page, began, "requests", "/requests?key=shop")  # not those of these pictures
            shoot(page, began, "relay", "/relay", check)
            shoot(page, began, "playground", "/playground", play)
            browser.close()
        finally:
            copy.stop()
    print(f"{len(list(FOLDER.glob('*.png')))} pictures are in {FOLDER.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
