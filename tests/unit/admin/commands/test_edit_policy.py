"""`mark`, `unmark` and `allow` on an image in a folder: what they write, print and refuse."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli

from safe_modprobe.admin.commands.main import main
from safe_modprobe.policy.accounts import Accounts
from safe_modprobe.policy.files import read_policy
from tests.tree.build import VERSION, Mod, build_tree

MODULES = (
    Mod("low"),
    Mod("plain_one", aliases=("net-pf-9",), depends=("low",)),
    Mod("bad", aliases=("net-pf-38", "bad-*")),
    Mod("marked", info=(b"privileged=Y",)),
)
DEFAULT = '[[mark]]\nmodules = ["bad*"]\nprivileged = true\nreason = "a list"\n'


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    build_tree(root, MODULES)
    return root


class Image:
    """A system in a folder: its modules, accounts and policy."""

    def __init__(self, root: Path, tree: Path) -> None:
        self.root = root
        self.etc, self.run, self.lib = (root / top / "safe-modprobe/policy.d" for top in ("etc", "run", "usr/lib"))
        self.lib.mkdir(parents=True)
        (self.lib / "50-d.toml").write_text(DEFAULT)
        (root / "etc").mkdir()
        (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nasterisk:x:1001:1001::/:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        (root / "lib").symlink_to(tree / "lib")

    @property
    def site(self) -> Path:
        return self.etc / "10-site.toml"

    def state(self) -> list[tuple[str, bytes]]:
        """Return every file and link of the policy, with its content."""
        files = [
            Path(folder, name)
            for top in ("etc", "run", "usr")
            for folder, _, names in os.walk(self.root / top)
            for name in names
        ]
        return sorted((str(file), file.read_bytes() if file.is_file() else b"") for file in files)


@pytest.fixture
def image(tmp_path: Path, tree: Path) -> Image:
    return Image(tmp_path, tree)


def ctl(image: Image, capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> str:
    """Run a subcommand. Return its output, or its error without the program's name."""
    assert main([command[0], "-d", str(image.root), "-S", VERSION, *command[1:]]) == code
    out, err = capsys.readouterr()
    if code == 0:
        assert err == ""
        return out.replace(str(image.root), "")
    assert out == "" and err.startswith("safe-modprobectl: ") and err.count("\n") == 1 and err.endswith("\n")
    return err.removeprefix("safe-modprobectl: ").removesuffix("\n").replace(str(image.root), "")


SITE = "/etc/safe-modprobe/policy.d/10-site.toml"
NO_CAP = "the caller lacks the required capability (CAP_SYS_MODULE)"


def test_mark_and_unmark(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl(image, capsys, "mark", "plain-one", "--reason", "nobody needs it") == (
        f"{SITE}:1: written\n"
        "  [[mark]]\n"
        '  modules = ["plain_one"]\n'
        "  privileged = true\n"
        '  reason = "nobody needs it"\n'
        f"plain_one: denied to a user without privilege: nobody needs it; {NO_CAP} [10-site.toml:1]\n"
        f"to undo: remove the row at {SITE}:1\n"
    )
    assert image.site.stat().st_mode & 0o777 == 0o644
    assert ctl(image, capsys, "mark", "plain_one", "--reason", "again") == (
        f"{SITE}: nothing to change\n"
        f"plain_one: denied to a user without privilege: nobody needs it; {NO_CAP} [10-site.toml:1]\n"
    )
    assert ctl(image, capsys, "unmark", "plain_one", "--reason", "x") == (
        f"{SITE}: plain_one removed from an earlier mark\n"
        "plain_one: allowed to a user without privilege: not marked [built-in]\n"
        f"to undo: safe-modprobectl mark plain_one --root  --kernel {VERSION} --reason 'nobody needs it'\n"
    )
    assert image.site.read_text() == ""


@pytest.mark.parametrize(
    ("before", "command"),
    [
        (("mark", "plain_one", "--reason", "no user's"), ("unmark", "plain_one")),
        (("mark", "plain_one", "--cap", "CAP_NET_ADMIN", "--reason", "$(id)"), ("unmark", "plain_one")),
        (("mark", "plain_one", "low", "--reason", "two"), ("unmark", "plain_one", "low")),
        (("mark", "nosuch", "--reason", "x", "--force"), ("unmark", "nosuch", "--force")),
        (("mark", "plain_one", "--until-reboot"), ("unmark", "plain_one", "--until-reboot")),
        (("unmark", "marked", "--over-marker", "--reason", "open"), ("mark", "marked")),
        (("unmark", "bad", "--reason", "open"), ("mark", "bad")),
    ],
)
def test_the_printed_undo_command_restores_the_marks(
    image: Image, capsys: pytest.CaptureFixture[str], before: tuple[str, ...], command: tuple[str, ...]
) -> None:
    ctl(image, capsys, *before)
    state = marks(image)
    assert main([*command, "-d", str(image.root), "-S", VERSION, "--reason", "x"]) == 0
    (undo,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to undo: ")]
    assert marks(image) != state
    for each in undo.removeprefix("to undo: ").split("; "):
        program, *words = shlex.split(each)
        assert (program, main(words)) == ("safe-modprobectl", 0)
    assert marks(image) == state


def marks(image: Image) -> list[tuple[str, str, str]]:
    """Return (module, privileged, reason) for each mark in /etc and /run."""
    files = [*image.etc.glob("*.toml"), *image.run.glob("*.toml")]
    rows = [row for file in files for row in tomli.loads(file.read_text()).get("mark", ())]
    return sorted((name, str(row["privileged"]), row["reason"]) for row in rows for name in row["modules"])


def test_allow_until_reboot_writes_to_run(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/run/safe-modprobe/policy.d/09-until-reboot.toml"
    output = ctl(image, capsys, "allow", "bad", "--user", "asterisk", "--unit", "asterisk.service", "--until-reboot")
    assert output == (
        f"{path}:1: written\n"
        "  [[rule]]\n"
        '  modules = ["bad"]\n'
        '  users = ["asterisk"]\n'
        '  units = ["asterisk.service"]\n'
        '  action = "allow"\n'
        '  reason = "until the next boot"\n'
        "bad: allowed to uid 1001 of asterisk.service: until the next boot [09-until-reboot.toml:1]\n"
        f"to undo: remove the row at {path}:1; the next boot undoes it too\n"
    )
    assert not image.etc.exists()


def test_a_name_given_twice_is_written_once(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    who = (
        "--uid",
        "7",
        "--uid",
        "7",
        "--user",
        "asterisk",
        "--user",
        "asterisk",
        "--unit",
        "a.scope",
        "--unit",
        "a.scope",
    )
    output = ctl(image, capsys, "allow", "bad", "plain_one", "plain-one", "bad", *who, "--reason", "x")
    assert tomli.loads(image.site.read_text()) == {
        "rule": [{"modules": ["bad"], "users": ["asterisk", 7], "units": ["a.scope"], "action": "allow", "reason": "x"}]
    }
    assert [line.split(":")[0] for line in output.splitlines() if ": allowed to " in line] == ["bad", "plain_one"]
    ctl(image, capsys, "mark", "plain-one", "plain_one", "--reason", "x")
    assert tomli.loads(image.site.read_text())["mark"][0]["modules"] == ["plain_one"]


def test_comments_stay_and_the_new_row_precedes_rows_that_would_match_first(
    image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    image.etc.mkdir(parents=True)
    image.site.write_text('# ours\n\n# never\n[[rule]]\nmodules = ["b*"]  # all\naction = "deny"\n')
    image.site.chmod(0o600)
    ctl(image, capsys, "allow", "bad", "--uid", "0", "--uid", "1001", "--reason", "tested")
    assert image.site.read_text() == (
        '# ours\n\n[[rule]]\nmodules = ["bad"]\nusers = [0, 1001]\naction = "allow"\nreason = "tested"\n\n'
        '# never\n[[rule]]\nmodules = ["b*"]  # all\naction = "deny"\n'
    )
    assert image.site.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("action", "who", "code"),
    [
        ("allow", ("--user", "asterisk"), 0),
        ("allow", ("--uid", "1001"), 0),
        ("allow", ("--uid", "0", "--cap", "CAP_CHOWN"), 1),
        ("allow", ("--uid", "1002"), 1),
        ("deny", ("--user", "asterisk", "--cap", "CAP_SYS_MODULE"), 1),
        ("deny", ("--uid", "1002", "--cap", "CAP_SYS_MODULE"), 0),
    ],
)
def test_explain_uses_the_groups_of_a_user(image: Image, action: str, who: tuple[str, ...], code: int) -> None:
    image.etc.mkdir(parents=True)
    image.site.write_text(f'[[rule]]\nmodules = ["bad"]\ngroups = ["telephony"]\naction = "{action}"\n')
    (image.root / "etc/group").write_text("root:x:0:\ntelephony:x:44:alice,asterisk\n")
    assert main(["explain", "bad", "-d", str(image.root), "-S", VERSION, *who]) == code


def test_dry_run_writes_nothing(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    before = image.state()
    output = ctl(image, capsys, "unmark", "bad", "--reason", "x", "--dry-run")
    assert (
        output.startswith(f"--- {SITE}\n+++ {SITE} (not written)\n@@ -0,0 +1,4 @@\n+[[mark]]\n")
        and "undo" not in output
    )
    assert "bad: allowed to a user without privilege: x [10-site.toml:1]\n" in output
    assert image.state() == before and not image.etc.exists()


def test_json(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    output = json.loads(ctl(image, capsys, "mark", "plain_one", "--cap", "cap_net_admin", "--reason", "é", "--json"))
    assert output.pop("diff").startswith(f"--- {SITE}\n")
    assert output == {
        "path": SITE,
        "changed": True,
        "line": 1,
        "modules": ["plain_one"],
        "added": [],
        "taken_out": [],
        "trial": False,
        "mismatch": "deny",
        "verdicts": [
            {
                "module": "plain_one",
                "uid": None,
                "unit": None,
                "verdict": "deny",
                "need": "CAP_NET_ADMIN",
                "reason": "é; the caller lacks the required capability (CAP_NET_ADMIN or CAP_SYS_MODULE)",
                "origin": "10-site.toml:1",
            }
        ],
    }


@pytest.mark.parametrize(
    ("setting", "note"),
    [
        ("trial = true", "note: a trial is on, so nothing is refused yet [05-a.toml:2]\n"),
        ('mismatch = "log"', "note: mismatch is log, so a mark refuses nothing [05-a.toml:2]\n"),
    ],
)
def test_a_note_says_which_setting_makes_a_mark_ineffective(
    image: Image, capsys: pytest.CaptureFixture[str], setting: str, note: str
) -> None:
    image.etc.mkdir(parents=True)
    (image.etc / "05-a.toml").write_text(f"[settings]\n{setting}\n")
    assert note in ctl(image, capsys, "mark", "plain_one", "--reason", "x")


def test_force_writes_a_module_that_this_kernel_lacks(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nosuch", "built_in"):
        assert f'modules = ["{name}"]' in ctl(image, capsys, "mark", name, "--reason", "x", "--force")


def unchanged(image: Image) -> None:
    pass


def broken(image: Image) -> None:
    image.etc.mkdir(parents=True)
    image.site.write_text("# ours\nnonsense\n")


def not_text(image: Image) -> None:
    image.etc.mkdir(parents=True)
    image.site.write_bytes(b"# \xff\n")


def other_broken(image: Image) -> None:
    image.etc.mkdir(parents=True)
    (image.etc / "20-x.toml").write_text("[[rule]]\n")


def masked(image: Image) -> None:
    image.etc.mkdir(parents=True)
    image.site.symlink_to("/dev/null")


def linked(image: Image) -> None:
    image.etc.mkdir(parents=True)
    (image.root / "elsewhere").write_text("")
    image.site.symlink_to("../elsewhere")


def writable_by_others(image: Image) -> None:
    image.etc.mkdir(parents=True)
    image.site.write_text("")
    image.site.chmod(0o666)


def folder_writable_by_others(image: Image) -> None:
    image.etc.mkdir(parents=True)
    image.etc.chmod(0o777)


def no_drop_in(image: Image) -> None:
    (image.lib / "50-d.toml").unlink()


def earlier_mark(image: Image) -> None:
    image.etc.mkdir(parents=True)
    (image.etc / "05-a.toml").write_text('[[mark]]\nmodules = ["plain_one"]\nprivileged = false\n')


def replaced(image: Image) -> None:
    image.etc.mkdir(parents=True)
    (image.etc / "09-until-reboot.toml").write_text("")


WHY = ("--reason", "x")
NAMES = "which has up to 55 letters, digits, - and _; patterns and aliases belong in policy files"


@pytest.mark.parametrize(
    ("spoil", "command", "sentence"),
    [
        (unchanged, ("mark", "plain_one", "--reason", "é" * 501), "--reason: it has 501 characters; the limit is 500"),
        (unchanged, ("mark", "plain_one", "--reason", "x" * 100_000), "--reason: it has 100000 characters; the limit is 500"),
        (unchanged, ("mark", "palin_one", *WHY), "palin_one: no such module in this kernel (did you mean plain_one?); --force writes the row anyway"),
        (unchanged, ("mark", "nosuch", *WHY), "nosuch: no such module in this kernel; --force writes the row anyway"),
        (unchanged, ("mark", "built-in", *WHY), "built_in: it is built in, so no policy can refuse it; --force writes the row anyway"),
        (unchanged, ("mark", "../bad", *WHY), f"'../bad' is not a module name, {NAMES}"),
        (unchanged, ("mark", "bad*", *WHY), f"'bad*' is not a module name, {NAMES}"),
        (unchanged, ("mark", "b" * 56, *WHY), f"'{'b' * 56}' is not a module name, {NAMES}"),
        (unchanged, ("mark", "", *WHY), f"'' is not a module name, {NAMES}"),
        (unchanged, ("mark", "a\nb", *WHY), rf"'a\nb' is not a module name, {NAMES}"),
        (unchanged, ("mark", "b\udcff", *WHY, "--force"), rf"'b\udcff' is not a module name, {NAMES}"),
        (unchanged, ("mark", "bäd", *WHY, "--force"), rf"'b\xe4d' is not a module name, {NAMES}"),
        (unchanged, ("unmark", "bad"), "--reason: say why, for the next reader of the policy, or give --until-reboot"),
        (unchanged, ("unmark", "bad", "--reason", " \t"), "--reason: it is empty; say why, for the next reader of the policy"),
        (unchanged, ("unmark", "bad", "--reason", "", "--until-reboot"), "--reason: it is empty; say why, for the next reader of the policy"),
        (unchanged, ("unmark", "bad", "--reason", "a\x1b[31m"), r"--reason: 'a\x1b[31m' contains an unprintable character; a reason is one line of text"),
        (unchanged, ("unmark", "bad", "--reason", "a\n[[rule]]"), r"--reason: 'a\n[[rule]]' contains an unprintable character; a reason is one line of text"),
        (unchanged, ("unmark", "bad", "--reason", "\udcff"), r"--reason: '\udcff' contains an unprintable character; a reason is one line of text"),
        (unchanged, ("allow", "bad", *WHY), "allow: name callers with --user, --uid or --unit, or 'unmark' the module for everyone"),
        (unchanged, ("allow", "bad", *WHY, "--user", "nobody\udcff"), r"--user: 'nobody\udcff' is not in /etc/passwd; give --uid instead"),
        (unchanged, ("allow", "bad", *WHY, "--unit", "cron"), "--unit: 'cron' is not a unit name; it must end in a unit type, as in 'cron.service'"),
        (unchanged, ("allow", "bad", *WHY, "--unit", ".service"), "--unit: '.service' is not a unit name; it must end in a unit type, as in 'cron.service'"),
        (unchanged, ("allow", "bad", *WHY, "--unit", "a\n.service"), r"--unit: 'a\n.service' is not a unit name; it must end in a unit type, as in 'cron.service'"),
        (unchanged, ("allow", "bad", *WHY, "--unit", "[a].service"), "--unit: '[a].service' contains a '['; only * and ? are wildcards here"),
        (broken, ("mark", "plain_one", *WHY), f"{SITE}:2: Expected '=' after a key in a key/value pair, so this is not TOML; nothing was changed"),
        (not_text, ("mark", "plain_one", *WHY), f"{SITE}:1: byte 0xff is not UTF-8; TOML is UTF-8 throughout; nothing was changed"),
        (other_broken, ("mark", "plain_one", *WHY), "/etc/safe-modprobe/policy.d/20-x.toml:1: rule: 'action' is missing; it is one of 'allow', 'log', 'deny'; nothing was changed"),
        (masked, ("mark", "plain_one", *WHY), f"{SITE}: it is a link to /dev/null, and links are not followed; nothing was changed; remove the link or edit its target"),
        (linked, ("mark", "plain_one", *WHY), f"{SITE}: it is a link to ../elsewhere, and links are not followed; nothing was changed; remove the link or edit its target"),
        (writable_by_others, ("mark", "plain_one", *WHY), f"{SITE}: others may write it (mode 0666); chmod it to 0644; nothing was changed"),
        (folder_writable_by_others, ("mark", "plain_one", *WHY), "/etc/safe-modprobe/policy.d: others may write it (mode 0777); chmod it to 0755; nothing was changed"),
        (no_drop_in, ("mark", "plain_one", *WHY), "/usr/lib/safe-modprobe/policy.d: no drop-in is in force, so the built-in policy is: every module needs privilege; your row would replace it; nothing was changed; install the default policy first"),
        (earlier_mark, ("mark", "plain_one", *WHY), "05-a.toml:1: plain_one: marked; that decides first, so change it there; nothing was changed"),
        (replaced, ("mark", "plain_one", "--until-reboot"), "/etc/safe-modprobe/policy.d/09-until-reboot.toml: it replaces /run/safe-modprobe/policy.d/09-until-reboot.toml; nothing was changed; remove it"),
    ],
)  # fmt: skip
def test_an_error_is_one_sentence_and_changes_nothing(
    image: Image,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Image], None],
    command: tuple[str, ...],
    sentence: str,
) -> None:
    spoil(image)
    before = image.state()
    assert ctl(image, capsys, *command, code=1) == sentence
    assert image.state() == before


def test_edits_at_the_same_time_lose_no_row(image: Image) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from safe_modprobe.admin.commands.main import main; sys.exit(main(sys.argv[1:]))",
    ]
    common = ["allow", "bad", "-d", str(image.root), "-S", VERSION, "--reason", "x", "--uid"]
    running = [subprocess.Popen([*command, *common, str(uid)], stdout=subprocess.DEVNULL) for uid in range(1, 5)]
    assert [each.wait() for each in running] == [0, 0, 0, 0]
    rules = read_policy([str(image.lib), str(image.run), str(image.etc)], Accounts()).rules
    assert sorted(min(rule.users or ()) for rule in rules) == [1, 2, 3, 4]


def test_a_missing_library_is_named(image: Image) -> None:
    code = "import sys; sys.modules['tomlkit'] = None; from safe_modprobe.admin.commands.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "mark", "bad", "-d", str(image.root), "-S", VERSION, "--reason", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "safe-modprobectl: the Python module tomlkit is missing; install it (Debian package python3-tomlkit)\n",
    )
