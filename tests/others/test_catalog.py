"""The message catalog: the real journalctl explains every kind of record, with all fields filled in."""

import re
import subprocess
from pathlib import Path

import pytest

from safe_modprobe.log import message_ids
from safe_modprobe.log.counts import LOAD, Budget, Repeats
from safe_modprobe.log.report import load_failure, repeats_fields, repeats_line
from tests.unit.admin.records.test_journal import rec
from tests.unit.journald import Sender, keep
from tests.unit.make import ROOT, USER, Y, plan, step, verdict

TOP = Path(__file__).resolve().parents[2]
CATALOG = TOP / "packaging/journal/safe-modprobe.catalog"
IDS = {name: value for name, value in vars(message_ids).items() if name.isupper() and isinstance(value, str)}

WHO = USER._replace(pid=77, tid=78, comm="x", unit="x.service")
MARKED = plan(step("marked", Y), alias="test-alias")
ALLOW = '\n  add rule = [{ modules = ["marked"], users = [1000], action = "allow" }] in the new file /etc/safe-modprobe/policy.d/10-NAME.toml\n'
ONE, BLOCK = Repeats(Budget("deny", 1000, 1000), 470), Repeats(Budget(LOAD, 131072, 196607), 3)
BROKEN = {"MESSAGE_ID": message_ids.POLICY_BROKEN, "SAFE_MODPROBE_REASON": "10-x.toml:1: a: b; mode privileged"}
FAILED = {
    "MESSAGE_ID": message_ids.FAILED,
    "SAFE_MODPROBE_ALIAS": "net-pf-38",
    "SAFE_MODPROBE_REASON": "ImportError: x",
}

ROWS = [
    (rec("test-alias", WHO, MARKED), ["denied to a caller without privilege: marked", "by           uid 1000 tid 78 'x' of x.service\n", ALLOW]),
    (rec("test-alias", ROOT, MARKED, '[settings]\nmode = "disabled"'), ["\n  change the mode\n"]),
    (rec("test-alias", WHO, MARKED, "[settings]\ntrial = true"), ["allowed that would be denied: marked", "'safe-modprobectl suggest'", ALLOW]),
    (rec("test-alias", ROOT, MARKED), ["A module was allowed: marked"]),
    ((repeats_line(ONE), repeats_fields(ONE)), ["470 more records", "for          uid 1000\n"]),
    ((repeats_line(BLOCK), repeats_fields(BLOCK)), ["for          uids from 131072 to 196607\n", "kind         load\n"]),
    (("x", load_failure(verdict("test-alias", WHO, MARKED), "marked", "No such device")),
     ["could not be loaded: marked", "reason       No such device\n", "'modprobe -v marked'"]),
    (("x", BROKEN), ["\n  10-x.toml:1: a: b; mode privileged\n", "'safe-modprobectl check'"]),
    (("x", FAILED), ["failure      ImportError: x\n"]),
]  # fmt: skip

# The catalog's database is built from our catalog alone, in a separate mount namespace.
_SCRIPT = """set -e
mount -t tmpfs none /var/lib/systemd && mkdir /var/lib/systemd/catalog
mount --bind "$1" /usr/lib/systemd/catalog
journalctl --update-catalog
journalctl --list-catalog
echo ----
journalctl --file "$2" --no-pager -x -o short
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """The output of `journalctl --list-catalog`, and that of `journalctl -x` for each of ROWS."""
    journal = keep(tmp_path_factory.mktemp("journal"), [Sender([record for record, _ in ROWS])])
    command = ["unshare", "-m", "sh", "-c", _SCRIPT, "sh", CATALOG.parent, journal]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    listed, _, explained = done.stdout.partition("----\n")
    texts = re.split(r"^(?!░░).* safe-modprobe\[\d+\]: ", explained, flags=re.MULTILINE)[1:]
    return listed, [re.sub(r"^░░ ?", "", text, flags=re.MULTILINE) for text in texts]


def test_the_catalog_has_exactly_the_kinds_of_records(shown: tuple[str, list[str]]) -> None:
    assert {line.split()[0] for line in shown[0].splitlines()} == set(IDS.values())
    assert {record[1]["MESSAGE_ID"] for record, _ in ROWS} == set(IDS.values()), "a row for each"


def test_message_ids_are_unique_and_unchanged() -> None:
    assert len(set(IDS.values())) == len(IDS)
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in IDS.values())
    assert IDS == {
        "DENIED": "6d1c9cf53cc6459b8a3ad6a2bde3b2a1",
        "LOGGED": "ac2cce9cbe354a689b174d5974e4b4dc",
        "ALLOWED": "c2e36c8a33c4475da6738911b4e48f0e",
        "REPEATED": "c1a56e9f8946483784e10c0a33b4f559",
        "NOT_LOADED": "269677ab6876410cb7bf11eb75347847",
        "POLICY_BROKEN": "d6b32a8b9cbc40c58687a874b709e641",
        "FAILED": "a8501ff43d4b4b83b67b5fe0d258f846",
    }


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_journalctl_explains_a_record(shown: tuple[str, list[str]], row: int) -> None:
    (message, _), parts = ROWS[row]
    text = shown[1][row]
    assert text.startswith(message)
    # journalctl prints a missing field by its name.
    assert not re.search(r"SAFE_MODPROBE", text), text
    assert [part for part in parts if part not in text] == [], text


def test_the_catalog_names_only_fields_of_records() -> None:
    named = set(re.findall(r"@([A-Z_]+)@", CATALOG.read_text()))
    assert named <= {key for (_, fields), _ in ROWS for key in fields}
