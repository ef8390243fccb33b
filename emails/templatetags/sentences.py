"""Our sentences on pages."""

import re

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def code(sentence: str) -> SafeString:
    """What stands between backticks, as in a terminal or a log, is shown as code."""
    return SafeString(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(sentence)))
