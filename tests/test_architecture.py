"""What holds the code together: imports point down, nothing is missing from the list, and fakes are real servers."""

import ast
import re
from pathlib import Path

import pytest
from django.core.management import call_command

from tests.conftest import ROOT

DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()
LISTED = re.findall(r"^\| `((?:emails|mailsite)/[\w./-]+\.py)` \| (.+) \|$", DOCUMENT, re.MULTILINE)
ORDER = [name for name, _ in LISTED]  # from the leaves upwards
LEAVES = ORDER[: ORDER.index("emails/rows.py")]  # the first that knows the database


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def ours() -> dict[str, Path]:
    """The project's files by name, without what Django generates and what is empty."""
    found = {path.relative_to(ROOT).as_posix(): path for path in files("emails", "mailsite")}
    return {name: path for name, path in found.items() if "/migrations/" not in name and path.read_text()}


def imported(path: Path) -> set[str]:
    """All modules that a file imports, anywhere in it, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files_used_by(path: Path) -> set[str]:
    names = {name.replace(".", "/") + ".py" for name in imported(path)}
    return names & ours().keys()


def test_the_list_of_files_is_complete_and_names_none_that_does_not_exist():
    assert sorted(ORDER) == sorted(ours())
    assert all(line.endswith(".") for _, line in LISTED)


@pytest.mark.parametrize("name", ORDER)
def test_imports_only_point_down(name):
    below = ORDER[: ORDER.index(name)]
    assert files_used_by(ROOT / name) <= set(below)


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_know_no_tables(name):
    assert "emails/models.py" not in files_used_by(ROOT / name)
    assert "django.db" not in imported(ROOT / name) or name == "emails/states.py"  # which has Django's choices


@pytest.mark.django_db
def test_migrations_are_complete(capsys):
    call_command("makemigrations", check_changes=True, dry_run=True)
    assert "No changes detected" in capsys.readouterr().out


def test_fakes_are_real_servers():
    """A test that replaces our own functions says nothing about what happens when they meet."""
    for path in files("tests"):
        assert not {"mock", "unittest.mock", "unittest"} & imported(path), path
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                assert "mocker" not in {argument.arg for argument in function.args.args}, path


def test_a_messages_state_is_written_in_one_file():
    """Elsewhere nobody assigns one, nor updates one."""
    for name, path in ours().items():
        if name == "emails/models.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
                assert "state" not in {keyword.arg for keyword in node.keywords}, name
