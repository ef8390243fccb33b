"""What may be sent, checked in one place for every door."""

from contextlib import suppress

import pytest
from email_validator import EmailNotValidError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emails.addresses import Address, validated
from emails.drafts import Draft, Invalid
from emails.models import EmailRequest

MINIMAL = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}


def draft(**fields) -> Draft:
    return Draft.clean({**MINIMAL, **fields})


def problems(**fields) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        draft(**fields)
    return [(problem.field, problem.name) for problem in caught.value.problems]


# One string is one address


@pytest.mark.parametrize(
    ("text", "name", "mailbox"),
    [
        ("moss@example.com", "", "moss@example.com"),
        ("  moss@example.com ", "", "moss@example.com"),
        ("<moss@example.com>", "", "moss@example.com"),
        ("Moss <moss@example.com>", "Moss", "moss@example.com"),
        ("Moss<moss@example.com>", "Moss", "moss@example.com"),
        ('"Moss" <moss@example.com>', "Moss", "moss@example.com"),
        ('"Moss, M." <moss@example.com>', "Moss, M.", "moss@example.com"),
        ("John Smith, Jr <j@example.com>", "John Smith, Jr", "j@example.com"),
        ("Moss (IT) <moss@example.com>", "Moss (IT)", "moss@example.com"),
        ('Maurice "Moss" <moss@example.com>', 'Maurice "Moss"', "moss@example.com"),
        (r'"Maurice \"Moss\"" <moss@example.com>', 'Maurice "Moss"', "moss@example.com"),
        ('"Moss" and "Roy" <it@example.com>', '"Moss" and "Roy"', "it@example.com"),
        ("moss@example.com <moss@example.com>", "moss@example.com", "moss@example.com"),
        ('"a@example.com, b@example.com" <it@example.com>', "a@example.com, b@example.com", "it@example.com"),
        ("a < b <it@example.com>", "a < b", "it@example.com"),
        ("Zoë 📧 <zoe@example.com>", "Zoë 📧", "zoe@example.com"),
        ('N <"a<b"@example.com>', "N", '"a<b"@example.com'),
        ('"a b"@example.com', "", '"a b"@example.com'),
        ("Moss@EXAMPLE.com", "", "Moss@example.com"),
        ("moss@bücher.example", "", "moss@bücher.example"),
        ("moss@xn--bcher-kva.example", "", "moss@bücher.example"),
        ("moss@localhost", "", "moss@localhost"),
        ("moss@shop.test", "", "moss@shop.test"),
    ],
)
def test_reading_an_address(text, name, mailbox):
    address = Address.parse(text)
    assert (address.name, address.mailbox) == (name, mailbox)
    assert Address.parse(str(address)) == address


def test_the_envelope_has_a_domain_that_the_wire_can_carry():
    address = Address.parse("Moss <moss@bücher.example>")
    assert address.envelope == "moss@xn--bcher-kva.example"
    assert str(address) == "Moss <moss@bücher.example>"


names = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=60)
local_parts = st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}", fullmatch=True) | st.builds(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"',
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
)
domains = st.sampled_from(["example.com", "bücher.example", "EXAMPLE.org", "localhost"])


@hypothesis_settings(deadline=None, max_examples=300)
@given(name=names, local=local_parts, domain=domains)
def test_an_address_that_was_accepted_is_read_back_the_same(name, local, domain):
    """Addresses are stored as text: what is read from it when the mail is built must be what was checked."""
    try:
        address = Address.parse(f"{Address('x', name)}".replace("<x>", f"<{local}@{domain}>"))
    except ValueError:
        return
    assert Address.parse(str(address)) == address
    assert address.name == name.strip()


@hypothesis_settings(deadline=None, max_examples=300)
@given(st.text(max_size=50) | st.text(alphabet='a@.,;<>"\\ ()', max_size=20))
def test_any_text_is_an_address_or_a_sentence(text):
    try:
        address = Address.parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert Address.parse(str(address)) == address


@hypothesis_settings(deadline=None, max_examples=1000)
@given(
    st.from_regex(r"[a-z0-9.+-]{1,9}@[a-z0-9.x-]{1,9}", fullmatch=True)
    | st.text(alphabet="a0.@-_+'A\n ", max_size=12)
    | st.builds(lambda n, m: "a" * n + "@" + "b" * m, st.integers(185, 195), st.integers(58, 68))
    | st.builds(lambda n: "a@" + ".".join(["b" * 60] * 4) + "c" * n, st.integers(0, 12))
)
def test_a_plain_address_is_read_as_the_validator_reads_it(text):
    try:
        expected = validated(text.strip())
    except EmailNotValidError:
        with pytest.raises(ValueError):
            Address.parse(text)
    else:
        with suppress(ValueError):  # that of a line break, for one, comes before
            assert Address.parse(text) == Address(expected)


def test_reading_takes_no_time_whatever_the_text():
    for evil in (
        "<" * 1000,
        "a@" + "b-" * 499,
        "a." * 500,
        '"' * 1000,
        "@," * 500,
        '"<' * 500,
        "\\" * 1000,
        "a@" * 500,
        '<"\\' * 333,
    ):
        with pytest.raises(ValueError):
            Address.parse(evil)


# A whole draft


def test_a_draft_with_everything():
    complete = draft(
        to=["Moss <moss@example.com>"], cc="jen@example.com", bcc=["roy@example.com"], reply_to="help@example.com",
        html="<p>Hi</p>", subject="  Hello\tthere ",
    )  # fmt: skip
    assert complete.sender == Address("shop@example.com")
    assert complete.to == [Address("moss@example.com", "Moss")]
    assert complete.subject == "Hello\tthere"
    assert (complete.html, complete.text) == ("<p>Hi</p>", "Hello")


def test_a_mailbox_that_is_named_twice_gets_one_mail():
    twice = draft(to=["moss@example.com", "Moss <moss@EXAMPLE.com>"], cc="moss@example.com", bcc=["Moss@example.com"])
    assert [address.envelope for address in twice.recipients] == ["moss@example.com", "Moss@example.com"]
    assert len(twice.to) == 2  # the headers say what the caller said


def test_one_domain_in_two_spellings_is_one():
    assert len(draft(to=["a@bücher.example", "a@xn--bcher-kva.example"]).recipients) == 1


def test_an_empty_body_counts_as_none():
    assert draft(html="").html is None
    assert draft(html="<p>", text="").text is None


def test_fifty_recipients_are_allowed():
    crowd = [f"moss{n}@example.com" for n in range(50)]
    assert len(draft(to=crowd).recipients) == 50
    assert len(draft(to=crowd[:20], cc=crowd[20:40], bcc=crowd[40:]).recipients) == 50


def test_an_empty_subject_is_one():
    assert draft(subject="").subject == ""
    assert problems(subject=None) == [("subject", "missing_required_field")]


def test_every_problem_is_found():
    found = problems(**{"from": "nobody", "to": ["x", "y"], "subject": "a\nb", "text": None, "colour": "red"})
    assert found == [
        ("colour", "validation_error"),
        ("from", "invalid_from_address"),
        ("to", "validation_error"),
        ("to", "validation_error"),
        ("subject", "validation_error"),
        ("text", "missing_required_field"),
    ]


@pytest.mark.parametrize("field", ["subject", "text", "html", "to", "from"])
def test_halves_of_surrogate_pairs(field):
    """JSON's parser refuses them; a form or a command could still bring them, and no database takes them."""
    value = "a\ud800b <moss@example.com>" if field in ("to", "from") else "a\ud800b"
    assert field in [name for name, _ in problems(**{field: value})]


@pytest.mark.stores
@pytest.mark.django_db
def test_the_largest_of_everything_can_be_stored():
    local, domain = "l" * 64, ".".join(["d" * 60] * 3) + ".example"
    longest = f'"{r"\\" * 320}" <{local}@{domain[-189:]}>'
    crowd = [f"{'n' * 320} <moss{n}@example.com>" for n in range(50)]
    email = EmailRequest.objects.submit(
        [draft(**{"from": longest, "to": crowd, "subject": "ü" * 998, "reply_to": [longest] * 50})], origin="a test"
    )[0]
    email = EmailRequest.objects.get(pk=email.pk)
    assert email.subject == "ü" * 998
    assert Address.parse(email.sender).name == "\\" * 320
    assert len(email.envelope_sender) == 254
    assert email.recipients.count() == 50
    assert email.raw()


printable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@pytest.mark.stores
@pytest.mark.django_db
@hypothesis_settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subject=printable, text=printable, html=printable, name=names)
def test_whatever_is_accepted_can_be_stored(subject, text, html, name):
    try:
        accepted = draft(subject=subject, text=text, html=html, to=str(Address("moss@example.com", name)))
    except Invalid:
        return
    email = EmailRequest.objects.submit([accepted], origin="a test")[0]
    stored = EmailRequest.objects.select_related("content").get(pk=email.pk)
    assert stored.subject == subject.strip()
    assert stored.content.text == (text or None)
    assert Address.parse(stored.to[0]).name == name.strip()
