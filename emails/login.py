"""One-time login links for the local administrator: whoever may run manage.py here may log in."""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import AbstractUser
from django.core import signing
from django.urls import reverse
from django.utils import timezone

LIFETIME = 600  # seconds
SALT = "emails.login"


class LinkProblem(Exception):
    """A link that doesn't log in: the HTTP status, and a sentence for the reader."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def one_time_url() -> str:
    """A link that logs the local administrator in, once, within ten minutes."""
    return settings.PUBLIC_URL + reverse("login_link", args=[token_for(local_administrator())])


def local_administrator() -> AbstractUser:
    """The superuser `admin`, made when first needed. Without a password: links are the only way in."""
    rights = {"is_staff": True, "is_superuser": True, "password": make_password(None)}
    return get_user_model().objects.get_or_create(username="admin", defaults=rights)[0]


def token_for(user: AbstractUser) -> str:
    return signing.dumps([user.pk, _moment(user)], salt=SALT)


def user_of(token: str, lifetime: float = LIFETIME) -> AbstractUser:
    """Uses the link up and returns its user. Raises LinkProblem.

    The token names the user's last login, and the UPDATE that replaces that decides: of two uses of one
    link, however simultaneous, one changes the row.
    """
    try:
        pk, last_login = signing.loads(token, salt=SALT, max_age=lifetime)
    except signing.SignatureExpired:
        raise LinkProblem(410, "This login link has expired.") from None
    except signing.BadSignature:
        raise LinkProblem(403, "This login link was not made here, or is incomplete.") from None
    unused = get_user_model().objects.filter(pk=pk, is_active=True, last_login=last_login)
    if not unused.update(last_login=timezone.now()):
        raise LinkProblem(410, "This login link has been used already.")
    return get_user_model().objects.get(pk=pk)


def _moment(user: AbstractUser) -> str | None:
    return user.last_login.isoformat() if user.last_login else None
