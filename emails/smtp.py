from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Relay:
    """The server that takes our mail: its address, and how to speak to it.

    `tls` is "implicit" (smtps), "required" (STARTTLS or nothing, submission) or "offered" (STARTTLS
    where the server has it). `address_file`, for the sandbox beside us, holds the address instead.
    """

    host: str = ""
    port: int = 0
    tls: str = "offered"
    username: str = ""
    password: str = ""
    is_sandbox: bool = False
    address_file: Path | None = None

    @classmethod
    def beside(cls, address_file: Path) -> Relay:
        """The sandbox on this machine, which records its free port in `address_file`."""
        return cls(tls="none", is_sandbox=True, address_file=address_file)

    @classmethod
    def from_url(cls, url: str) -> Relay:
        """Raises ValueError for a URL that names no relay."""
        schemes = {"smtp": (25, "offered"), "submission": (587, "required"), "smtps": (465, "implicit")}
        parts = urlsplit(url)
        if not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError
        if parts.scheme == "sandbox" and parts.port:
            return cls(parts.hostname, parts.port, "none", is_sandbox=True)
        port, tls = schemes.get(parts.scheme) or (0, "")
        if not port:
            raise ValueError
        return cls(
            parts.hostname, parts.port or port, tls, unquote(parts.username or ""), unquote(parts.password or "")
        )
