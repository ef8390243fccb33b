"""What a copy of Mailsite under test must not inherit. For the tests and the benchmarks, too."""

import re
from pathlib import Path

CONFIGURATION = Path(__file__).parent.parent / "docs" / "configuration.md"


def cleared() -> dict[str, str]:
    """All settings, empty: that counts as unset, and a developer's .env doesn't reach the copy.

    They are those of docs/configuration.md, which a test holds against settings.py.
    """
    return dict.fromkeys(re.findall(r"^\| `([A-Z_]+)` \|", CONFIGURATION.read_text(), re.MULTILINE), "")
