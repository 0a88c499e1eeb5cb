"""The schema for editors accepts what the parser accepts, except for the differences in its docstring."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_modprobe.admin.policy.json_schema import DESCRIPTIONS, json_schema
from safe_modprobe.errors import PolicyError
from safe_modprobe.policy.schema import KEYS, build
from tests.unit.make import NoAccounts
from tests.unit.policy.test_schema import ERRORS

TOP = Path(__file__).resolve().parents[4]
SCHEMA = json_schema()
VALIDATORS = [
    draft(SCHEMA) for draft in (jsonschema.Draft4Validator, jsonschema.Draft7Validator, jsonschema.Draft202012Validator)
]


def accepts(document: Any) -> bool:
    """Whether the schema accepts the document, in every draft alike."""
    answers = {validator.is_valid(document) for validator in VALIDATORS}
    assert len(answers) == 1
    return answers.pop()


def test_the_schema_is_valid_json_schema() -> None:
    for validator in VALIDATORS:
        validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_every_key_has_a_description_and_the_reverse() -> None:
    assert {table: set(keys) for table, keys in DESCRIPTIONS.items()} == {
        table: set(keys) for table, keys in KEYS.items()
    }
    assert all(text.endswith(".") for keys in DESCRIPTIONS.values() for text in keys.values())


SHIPPED = sorted((TOP / "policy.d").rglob("*.toml"))


@pytest.mark.parametrize("path", [path for path in SHIPPED if "tests.d" not in path.parts], ids=lambda path: path.name)
def test_the_shipped_files_are_accepted(path: Path) -> None:
    assert accepts(tomli.loads(path.read_text()))


@pytest.mark.parametrize(
    "text", [text for text, message in ERRORS if "is already the name of" not in message and "not TOML" not in message]
)
def test_the_schema_rejects_what_the_parser_rejects(text: str) -> None:
    assert not accepts(tomli.loads(text))


# These need more than the document: accounts, and the names of other rules.
RULE = "[[rule]]\naction = 'deny'\n"
KNOWN_TO_DIFFER = [
    (f"{RULE}users = ['bob']", "3: users: 'bob' is not a user in /etc/passwd; name services are not queried, so give the number"),
    (f"{RULE}groups = ['bobs']", "3: groups: 'bobs' is not a group in /etc/group; name services are not queried, so give the number"),
    (f"{RULE}users = [1]\nname = 'n'\n" * 2, "8: name: 'n' is already the name of the rule at t.toml:1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), KNOWN_TO_DIFFER)
def test_only_the_parser_rejects_unknown_accounts_and_duplicate_names(text: str, message: str) -> None:
    assert accepts(tomli.loads(text))
    with pytest.raises(PolicyError) as error:
        build([("t.toml", text.encode())], NoAccounts())
    assert str(error.value) == f"t.toml:{message}"


def test_only_the_parser_rejects_one_point_zero() -> None:
    document = {"rule": [{"users": [1.0], "action": "deny"}]}
    assert jsonschema.Draft7Validator(SCHEMA).is_valid(document)
    assert not parses(document)


# Documents that are almost valid: keys with valid values, with values of other keys, and with invalid ones.
texts = st.text(st.sampled_from("a*?[]!-\n\x7fé\\^$ "), max_size=5) | st.sampled_from(
    [
        "CAP_NET_ADMIN",
        "marker",
        "root",
        "asterisk",
        "audio",
        "[a]",
        "[!]",
        "[]]",
        "[!]]",
        "a\n",
        "allow",
        "deny",
        "proc",
        "initial",
    ]
)
scalars = st.one_of(st.booleans(), texts, st.integers(-2, 3), st.sampled_from([2**32 - 2, 2**32 - 1, 1.5]), st.just({}))
values = scalars | st.lists(scalars, max_size=3)
valid: dict[str, st.SearchStrategy[Any]] = {
    "modules": st.just(["a*"]), "aliases": st.just(["x", "[a]"]), "users": st.just([0, "root"]), "groups": st.just(["audio"]),
    "capabilities": st.just(["CAP_BPF"]), "units": st.just(["a.service"]), "executables": st.just(["/a"]), "call_sites": st.just(["f"]),
    "user_namespace": st.sampled_from(["initial", "other"]), "no_new_privs": st.booleans(), "callers": st.sampled_from(["known", "unknown"]),
    "action": st.sampled_from(["allow", "log", "deny"]), "quiet": st.booleans(), "reason": st.just("r"), "name": st.just("n"),
    "privileged": st.sampled_from([True, False, "marker", "CAP_BPF"]), "capability": st.just("CAP_BPF"), "deputy": st.booleans(),
    "mode": st.sampled_from(["allowed", "marked", "privileged", "disabled"]), "mismatch": st.sampled_from(["allow", "log", "deny"]),
    "unknown_caller": st.sampled_from(["privileged", "unprivileged"]), "sources": st.just(["proc", "bpf"]),
    "kernel_args": st.sampled_from(["optional", "always"]), "forward_kernel_args": st.booleans(), "trial": st.booleans(),
}  # fmt: skip


@st.composite
def rows(draw: Any, table: str) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from([*KEYS[table], *KEYS[table], "other"]), max_size=6, unique=True))
    if table != "settings" and draw(st.booleans()):  # the required keys
        keys += [key for key in ("modules", "aliases", "privileged", "action", "deputy") if key in KEYS[table]]
    row = {key: draw(valid.get(key, values)) for key in keys}
    if keys and draw(st.booleans()):
        row[draw(st.sampled_from(keys))] = draw(values)
    return row


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    table = draw(st.sampled_from(list(KEYS)))
    value = draw(rows(table)) if table == "settings" else [draw(rows(table))]
    return {draw(st.sampled_from([table] * 9 + ["other"])): draw(st.sampled_from([value] * 9 + [[], {}, 1]))}


class AnyAccounts:
    """Accounts in which every name exists, because the schema does not know accounts."""

    def uid(self, name: str) -> int | None:
        return None if not name else 1

    def gid(self, name: str) -> int | None:
        return None if not name else 1


def parses(document: dict[str, Any]) -> bool:
    try:
        build([("t.toml", as_toml(document).encode())], AnyAccounts())
    except PolicyError as error:
        assert "this is not TOML" not in str(error)
        return False
    return True


def as_toml(document: dict[str, Any]) -> str:
    return "".join(f"{key} = {inline(value)}\n" for key, value in document.items())


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    # A JSON string is a TOML string, except that TOML requires DEL to be escaped.
    return json.dumps(value).replace("\x7f", "\\u007f")


@given(documents())
@settings(max_examples=600)
def test_the_schema_accepts_exactly_what_the_parser_accepts(document: dict[str, Any]) -> None:
    assert accepts(document) is parses(document)


def test_the_schema_does_not_import_jsonschema() -> None:
    command = "from safe_modprobe.admin.policy.json_schema import json_schema; import sys; json_schema(); print('jsonschema' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
