"""The schema for editors takes what the parser takes, but for what its docstring says."""

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


def takes(document: Any) -> bool:
    """Whether the schema does; in every draft alike."""
    answers = {validator.is_valid(document) for validator in VALIDATORS}
    assert len(answers) == 1
    return answers.pop()


def test_it_is_a_schema_and_json() -> None:
    for validator in VALIDATORS:
        validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_every_key_has_a_sentence_and_every_sentence_a_key() -> None:
    assert {table: set(keys) for table, keys in DESCRIPTIONS.items()} == {
        table: set(keys) for table, keys in KEYS.items()
    }
    assert all(text.endswith(".") for keys in DESCRIPTIONS.values() for text in keys.values())


SHIPPED = sorted((TOP / "policy.d").rglob("*.toml"))


@pytest.mark.parametrize("path", [path for path in SHIPPED if "tests.d" not in path.parts], ids=lambda path: path.name)
def test_the_shipped_files(path: Path) -> None:
    assert takes(tomli.loads(path.read_text()))


@pytest.mark.parametrize(
    "text", [text for text, message in ERRORS if "is already the name of" not in message and "not TOML" not in message]
)
def test_it_refuses_what_the_parser_refuses(text: str) -> None:
    assert not takes(tomli.loads(text))


# What one has to look elsewhere for, as the docstring says.
RULE = "[[rule]]\naction = 'deny'\n"
KNOWN_TO_DIFFER = [
    (f"{RULE}users = ['bob']", "3: users: 'bob' is not a user in /etc/passwd; name services are not queried, so give the number"),
    (f"{RULE}groups = ['bobs']", "3: groups: 'bobs' is not a group in /etc/group; name services are not queried, so give the number"),
    (f"{RULE}users = [1]\nname = 'n'\n" * 2, "8: name: 'n' is already the name of the rule at t.toml:1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), KNOWN_TO_DIFFER)
def test_what_the_parser_alone_refuses(text: str, message: str) -> None:
    assert takes(tomli.loads(text))
    with pytest.raises(PolicyError) as error:
        build([("t.toml", text.encode())], NoAccounts())
    assert str(error.value) == f"t.toml:{message}"


def test_json_does_not_tell_one_point_zero_from_one() -> None:
    document = {"rule": [{"users": [1.0], "action": "deny"}]}
    assert jsonschema.Draft7Validator(SCHEMA).is_valid(document)
    assert not parses(document)


# Documents near the rows that are right: each key with values that some key takes, and with some that none does.
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
right: dict[str, st.SearchStrategy[Any]] = {
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
    if table != "settings" and draw(st.booleans()):  # what it must have
        keys += [key for key in ("modules", "aliases", "privileged", "action", "deputy") if key in KEYS[table]]
    row = {key: draw(right.get(key, values)) for key in keys}
    if keys and draw(st.booleans()):
        row[draw(st.sampled_from(keys))] = draw(values)
    return row


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    table = draw(st.sampled_from(list(KEYS)))
    value = draw(rows(table)) if table == "settings" else [draw(rows(table))]
    return {draw(st.sampled_from([table] * 9 + ["other"])): draw(st.sampled_from([value] * 9 + [[], {}, 1]))}


class AnyAccounts:
    """Whatever the accounts are is not the schema's business."""

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
    # A string of JSON is one of TOML, but for DEL, which TOML wants escaped.
    return json.dumps(value).replace("\x7f", "\\u007f")


@given(documents())
@settings(max_examples=600)
def test_it_takes_what_the_parser_takes_and_nothing_else(document: dict[str, Any]) -> None:
    assert takes(document) is parses(document)


def test_it_is_of_the_admins_tool_and_needs_no_library() -> None:
    command = "from safe_modprobe.admin.policy.json_schema import json_schema; import sys; json_schema(); print('jsonschema' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
