"""What a mail expert would say about a draft before it is sent: warnings, never refusals."""

import re
from html.parser import HTMLParser

from emails.drafts import Draft
from emails.smtp import Relay

LOOKED_AT = 1_000_000  # characters of markup
CLIPPED = 102_400  # bytes of HTML after which Gmail cuts a message off


def warnings(draft: Draft, relay: Relay) -> list[str]:
    found = []
    if draft.html and not draft.text:
        found.append("There is no text part: some readers and many spam filters expect one beside the HTML.")
    if draft.html and (size := len(draft.html.encode())) > CLIPPED:
        found.append(f"The HTML has {size // 1024} KB: Gmail cuts messages off after 102 KB.")
    if draft.html:
        found += _about_markup(draft.html)
    if any(word.startswith("http://") for word in re.findall(r"https?://\S+", draft.text or "")):
        found.append("The text has links to http://: use https://.")
    if not draft.subject:
        found.append("The subject is empty.")
    login_domain = relay.username.rpartition("@")[2].lower()
    if "@" in relay.username and login_domain != draft.sender.domain:
        found.append(
            f"The relay's login is at {login_domain}: it is unlikely to be allowed to send from {draft.sender.domain}."
        )
    return found


class _Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images_without_alt = self.plain_links = self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.images_without_alt += tag == "img" and "alt" not in given
        self.plain_links += tag == "a" and (given.get("href") or "").lower().startswith("http://")
        self.scripts += tag in ("script", "form", "iframe")


def _about_markup(html: str) -> list[str]:
    markup = _Markup()
    markup.feed(html[:LOOKED_AT])
    found = []
    if count := markup.images_without_alt:
        found.append(f"{count} image{'s have' if count > 1 else ' has'} no alt text.")
    if count := markup.plain_links:
        found.append(f"{count} link{'s lead' if count > 1 else ' leads'} to http://: use https://.")
    if markup.scripts:
        found.append("Scripts, forms and frames are removed by most readers.")
    return found
