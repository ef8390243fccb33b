"""A throw-away PostgreSQL: where its programs are, and how a cluster is made. For the tests and the benchmarks, too."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

USER = "postgres" if os.getuid() == 0 else None  # it refuses to run as root


def find() -> Path | None:
    """The folder with the newest PostgreSQL's programs, if there is one on this machine."""
    if versions := sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)):
        return versions[-1]
    found = shutil.which("postgres")
    return Path(found).resolve().parent if found else None


def create(programs: Path, folder: Path) -> None:
    """Makes a cluster in `folder`."""
    if USER:
        os.chown(folder, pwd.getpwnam(USER).pw_uid, -1)
    options = ["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C.UTF-8"]
    initdb = [programs / "initdb", "-D", folder / "data", *options]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/", **identity(USER))


def server(programs: Path, folder: Path) -> list[str]:
    """The command that serves the cluster in `folder`, by a socket there alone."""
    return [str(programs / "postgres"), "-D", f"{folder}/data", "-k", str(folder), "-c", "listen_addresses="]


def url(folder: Path) -> str:
    return f"postgres://postgres@{str(folder).replace('/', '%2F')}/postgres"


def identity(user: str | None) -> dict:
    """The arguments that make a process run as `user`."""
    return {"user": user, "group": user, "extra_groups": []} if user else {}
