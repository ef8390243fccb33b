"""The command: `make chaos`, or `python -m chaos`."""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chaos import postgresql
from chaos.environment import cleared
from chaos.ports import free_port

# Of the environment nothing may reach the system under test but what is given here; empty counts as unset.
SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "mailsite.settings",
    "PYTHONUNBUFFERED": "1",
    "GRACE": "3",
    "RETRY_SCHEDULE": "1,2,3",
    "SENDERS": "16",
    "SMTP_TIMEOUT_CONNECT": "3",
    "SMTP_TIMEOUT_GREETING": "4",
    "SMTP_TIMEOUT_COMMAND": "4",
    "SMTP_TIMEOUT_DATA": "4",
    "SMTP_TIMEOUT_BLOCK": "4",
    "SMTP_TIMEOUT_FINAL": "8",
}


def main() -> int:
    options = arguments()
    databases = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    policies = ["resend", "hold"] if options.policy == "both" else [options.policy]
    runs = [("--database", database, "--policy", policy) for policy in policies for database in databases]
    if len(runs) == 1:
        return test(options)
    # Django reads its settings once, so each run is a process of its own.
    common = [sys.executable, "-m", "chaos", *sys.argv[1:], "--seed", str(options.seed)]
    return max(subprocess.call([*common, *run]) for run in runs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("chaos", description="Kills the system at random moments, and counts the mail.")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--policy", choices=["resend", "hold", "both"], default="resend", help="for uncertain mail")
    parser.add_argument("--mails", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=50, help="half as many other blows come on top")
    parser.add_argument("--gap", type=float, default=4, help="seconds from one blow to the next, on the average")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--lease", type=int, default=5, help="seconds after which a silent worker counts as dead")
    parser.add_argument("--patience", type=float, default=120, help="seconds to settle after the last blow")
    parser.add_argument("--worker", type=shlex.split, help="another command for the workers, to test this test")
    parser.add_argument("--keep", action="store_true", help="leave the data folder with the database and all logs")
    return parser.parse_args()


def test(options: argparse.Namespace) -> int:
    """One run, in folders of its own that only a failure leaves behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be told to stop is Ctrl-C
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    cluster = Path(tempfile.mkdtemp(prefix="chaos-pg-")) if options.database == "postgresql" else None
    relay_port = free_port()
    set_environment(options, folder, cluster, relay_port)
    keep = True
    try:
        import django

        django.setup()
        from chaos import trial

        kept = trial.run(options, relay_port, cluster, when_over=ignore_signals)
        keep = options.keep or not kept
        return 0 if kept else 1
    except KeyboardInterrupt:
        print("Stopped: no verdict.")
        keep = options.keep
        return 130
    finally:
        folders = [folder, *([cluster] if cluster else [])]
        if keep:
            print(f"\nThe logs and the database are in {' and '.join(map(str, folders))}.")
        for path in () if keep else folders:
            shutil.rmtree(path, ignore_errors=True)


def set_environment(options: argparse.Namespace, folder: Path, cluster: Path | None, relay_port: int) -> None:
    """What settings.py reads, here and in every part of the system."""
    os.environ |= cleared() | SETTINGS
    os.environ |= {
        "MAILSITE_DATA": str(folder),
        "EMAIL_URL": f"smtp://127.0.0.1:{relay_port}",
        "ON_UNKNOWN": options.policy,
        "LEASE": str(options.lease),
    }
    if cluster:
        os.environ["DATABASE_URL"] = postgresql.url(cluster)


def ignore_signals() -> None:
    """What was started is ended, however impatient somebody is; it takes seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
