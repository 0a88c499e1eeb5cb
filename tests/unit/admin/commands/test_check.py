"""`safe-modprobectl check` of draft files and of whole images, and the facts that it reads from them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.health.machine_facts import read_facts
from safe_modprobe.admin.policy.drop_ins import read_draft, read_installed
from safe_modprobe.admin.policy.json_schema import json_schema
from safe_modprobe.admin.policy.names import NamesInPolicy

TOP = Path(__file__).resolve().parents[4]
KERNEL = "6.1.0-9-test"
OURS, BOOT, SITE = (f"{top}/safe-modprobe/policy.d" for top in ("usr/lib", "run", "etc"))
MARK = "[[mark]]\nmodules = ['sctp']\nprivileged = true\n"


def put(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return the root of a system image with one kernel, systemd and accounts, but no policy."""
    top = tmp_path / "image"
    modules = top / "lib/modules" / KERNEL
    put(
        modules / "modules.dep",
        "kernel/net/sctp.ko.xz: kernel/lib/libcrc32c.ko.xz\nkernel/lib/libcrc32c.ko.xz:\nkernel/a-b.ko:\n",
    )
    put(
        modules / "modules.alias",
        "# Aliases extracted from modules themselves.\nalias net-pf-2-proto-132 sctp\nalias pci:v*[A-C]-* a_b\n",
    )
    put(modules / "modules.builtin", "kernel/net/unix/unix.ko\n")
    put(modules / "modules.builtin.modinfo", b"unix.license=GPL\0unix.alias=net-pf-1\0unix.description=x=y\nz\0")
    put(top / "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nasterisk:x:107:115::/:/bin/false\n")
    put(top / "etc/group", "root:x:0:\naudio:x:29:\n")
    put(top / "etc/subuid", "asterisk:100000:65536\nodd\nodd:x:1\nodd:1\n")
    put(top / "usr/lib/systemd/system/asterisk.service")
    put(top / "usr/lib/systemd/system/user@.service")
    put(top / "usr/lib/systemd/system/tmp.mount")
    (top / "usr/lib/systemd/system/pbx.service").symlink_to("asterisk.service")
    put(top / "etc/init.d/exim4")
    put(top / "etc/modprobe.d/site.conf", "alias my-own sctp\n")
    return top


def check(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    code = main(["check", *map(str, arguments)])
    return code, capsys.readouterr().out.splitlines()


# Checks of files that the command line names.


DRAFTS = [
    (MARK, [], 0, "1 file, no rules, 1 mark, no call sites: no errors, no warnings, no notes"),
    (MARK, ["--strict"], 0, "1 file, no rules, 1 mark, no call sites: no errors, no warnings, no notes"),
    ("", [], 0, "1 file, no rules, no marks, no call sites: no errors, no warnings, no notes"),
    (MARK * 2, [], 0, "1 file, no rules, 2 marks, no call sites: no errors, 1 warning, no notes"),
    (MARK * 2, ["--strict"], 1, "1 file, no rules, 2 marks, no call sites: no errors, 1 warning, no notes"),
    ("[settings]\ntrial = true\n", ["--strict"], 0, "1 file, no rules, no marks, no call sites: no errors, no warnings, 1 note"),
    ("[[mark]]\n", [], 1, "1 error, no warnings, no notes; the policy is invalid"),
    ("[[mark]]\n", ["--strict"], 1, "1 error, no warnings, no notes; the policy is invalid"),
    ("[[mark]]\n" + MARK * 2, [], 1, "1 error, no warnings, no notes; the policy is invalid"),
    ("x", [], 1, "1 error, no warnings, no notes; the policy is invalid"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "code", "summary"), DRAFTS)
def test_the_exit_code_follows_the_summary(
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    options: list[str],
    code: int,
    summary: str,
) -> None:
    path = put(tmp_path / "10-site.toml", text)
    found = check(capsys, "--root", image, *options, path)
    assert (found[0], found[1][-1]) == (code, summary)


def test_errors_come_first_then_warnings_then_notes(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = put(tmp_path / "good.toml", f"[settings]\ntrial = true\n{MARK}[[rule]]\nusers = [42]\naction = 'deny'\n")
    bad = put(tmp_path / "bad.toml", "[[rule]]\nusers = ['bob']\naction = 'alow'\n")
    code, lines = check(capsys, "--root", image, good, bad)
    assert code == 1
    assert lines == [
        f"{bad}:2: users: 'bob' is not a user in /etc/passwd; name services are not queried, so give the number",
        f"{bad}:3: action: 'alow' is not one of 'allow', 'log', 'deny'",
        f"{good}:7: warning: users: this system has no user with uid 42",
        f"{good}:2: note: trial: with true nothing is refused; a load that would be refused is allowed and recorded",
        "1 file, 1 rule, 1 mark, no call sites: 2 errors, 1 warning, 1 note",
    ]


def test_a_folder_is_one_policy_and_each_file_is_a_policy_of_its_own(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = put(tmp_path / "d/10-a.toml", MARK), put(tmp_path / "d/9-b.toml", MARK)
    put(tmp_path / "d/.hidden.toml", "x")
    put(tmp_path / "d/examples/x.toml", "x")
    put(tmp_path / "d/20-c.conf", "x")
    assert check(capsys, "--root", image, "--strict", low, high)[0] == 0
    assert check(capsys, "--root", image, "--strict", tmp_path / "d") == (
        1,
        [
            f"{high}:1: warning: mark: it never decides: 10-a.toml:1 matches the same requests first",
            f"{tmp_path}/d/.hidden.toml: note: it is not read: a drop-in's name ends in .toml and does not start with a dot",
            f"{tmp_path}/d/20-c.conf: note: it is not read: a drop-in's name ends in .toml and does not start with a dot",
            "2 files, no rules, 2 marks, no call sites: no errors, 1 warning, 2 notes",
        ],
    )


def test_missing_special_and_masked_files(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "mask.toml").symlink_to("/dev/null")
    code, lines = check(capsys, "--root", image, tmp_path / "gone.toml", tmp_path / "fifo.toml", tmp_path / "mask.toml")
    assert code == 1
    assert lines == [
        f"{tmp_path}/gone.toml: No such file or directory",
        f"{tmp_path}/fifo.toml: it is not a file; a drop-in is one, or a link to /dev/null",
        f"{tmp_path}/mask.toml: note: it masks the drop-in of the same name",
        "no files, no rules, no marks, no call sites: 2 errors, no warnings, 1 note",
    ]


def test_control_characters_in_names_are_escaped(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path / "a\x1b[2J\n.toml", '[[mark]]\nmodules = ["\\u001b"]\nprivileged = "é\u202e"\n')
    code, lines = check(capsys, "--root", image, path)
    assert code == 1
    assert lines == [
        f"{tmp_path}/a\\x1b[2J\\x0a.toml:2: modules: '\\x1b' contains a control character; remove it",
        f"{tmp_path}/a\\x1b[2J\\x0a.toml:3: privileged: '\\xe9\\u202e' is not a capability such as 'CAP_NET_ADMIN', see"
        " capabilities(7)",
        "2 errors, no warnings, no notes; the policy is invalid",
    ]


def test_json_lists_the_findings(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "t.toml", MARK * 2)
    assert main(["check", "--json", "--strict", "--root", str(image), str(path)]) == 1
    assert json.loads(capsys.readouterr().out) == [
        {
            "severity": "warning",
            "path": str(path),
            "line": 4,
            "key": "mark",
            "message": "it never decides: t.toml:1 matches the same requests first",
        }
    ]
    assert main(["check", "--json", "--root", str(image), str(put(tmp_path / "t.toml", MARK))]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["check", "--json", "--root", str(image), str(tmp_path / "gone.toml")]) == 1
    assert json.loads(capsys.readouterr().out) == [
        {
            "severity": "error",
            "path": f"{tmp_path}/gone.toml",
            "line": None,
            "key": None,
            "message": "No such file or directory",
        }
    ]


def test_schema_prints_the_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


# Checks of the installed policy.


def test_a_correct_image_has_no_findings(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(image / OURS / "50-a.toml", MARK)
    put(
        image / SITE / "10-site.toml",
        "[[rule]]\nmodules = ['sctp']\nusers = ['asterisk', 100033]\ngroups = ['audio']\naction = 'allow'\n"
        "units = ['asterisk.service', 'exim4.service', 'user@7.service']\naliases = ['my_own']\n",
    )
    assert check(capsys, "--root", image, "--strict") == (
        0, ["2 files, 1 rule, 1 mark, no call sites: no errors, no warnings, no notes"]
    )  # fmt: skip


def test_a_warning_on_a_file_of_the_package_is_a_note(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = put(image / OURS / "50-a.toml", "[[mark]]\nmodules = ['tipc']\nprivileged = true\n")
    put(image / SITE / "60-site.toml", MARK)
    end = "2 files, no rules, 2 marks, no call sites: no errors, no warnings, 1 note"
    assert check(capsys, "--root", image, "--strict") == (
        0, [f"{end} (1 on the package's own files; --all shows them)"]
    )  # fmt: skip
    note = "note: modules: kernel 6.1.0-9-test has no module named 'tipc'"
    assert check(capsys, "--root", image, "--strict", "--all") == (0, [f"{ours}:2: {note}", end])
    # An error in a file of the package stays an error.
    ours.write_text("x")
    assert check(capsys, "--root", image)[0] == 1


def test_replaced_and_masked_drop_ins_are_reported(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("50-a.toml", "60-b.toml"):
        put(image / OURS / name, MARK)
    put(image / BOOT / "50-a.toml", "x")
    put(image / SITE / "50-a.toml", MARK)
    for name in ("60-b.toml", "70-gone.toml"):
        (image / SITE / name).symlink_to("/dev/null")
    code, lines = check(capsys, "--root", image)
    assert code == 0
    assert lines == [
        f"{image}/{SITE}/70-gone.toml: warning: it masks nothing: no earlier folder has a drop-in of the same name",
        f"{image}/{SITE}/50-a.toml: note: it replaces {image}/{OURS}/50-a.toml and {image}/{BOOT}/50-a.toml",
        f"{image}/{SITE}/60-b.toml: note: it masks {image}/{OURS}/60-b.toml",
        "1 file, no rules, 1 mark, no call sites: no errors, 1 warning, 2 notes",
    ]


def test_unsafe_broken_and_unreadable_drop_ins_are_errors(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = put(image / SITE / "10-a.toml", MARK)
    written.chmod(0o666)
    (image / SITE / "20-b.toml").symlink_to("nowhere")
    put(image / SITE / "30-c.toml", "[[mark]]\n")
    assert check(capsys, "--root", image) == (
        1,
        [
            f"{image}/{SITE}/10-a.toml: others may write it (mode 0666); chmod it to 0644",
            f"{image}/{SITE}/20-b.toml: No such file or directory; fix or remove it",
            f"{image}/{SITE}/30-c.toml:1: mark: it names nothing; give 'modules' or 'aliases'",
            "3 errors, no warnings, no notes; the policy is invalid",
        ],
    )
    (image / SITE).chmod(0o777)
    assert check(capsys, "--root", image)[1][0] == f"{image}/{SITE}: others may write it (mode 0777); chmod it to 0755"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nosuch", "No such file or directory"),
        ("/dev/zero", "it is not a file; a drop-in is one, or a link to /dev/null"),
    ],
)
def test_a_path_that_is_not_a_file_has_one_finding(capsys: pytest.CaptureFixture[str], path: str, why: str) -> None:
    """The file's name is not reported as well; the path could not be a drop-in under any name."""
    assert check(capsys, path) == (1, [f"{path}: {why}", "1 error, no warnings, no notes; the policy is invalid"])


def test_a_folder_without_a_drop_in_is_a_warning(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = image / "drafts"
    (folder / "tests.d").mkdir(parents=True)
    lines = [
        f"{folder}: warning: no drop-in found; the name of a drop-in ends in .toml",
        "no files, no rules, no marks, no call sites: no errors, 1 warning, no notes",
    ]
    assert check(capsys, "--root", image, folder) == (0, lines)
    assert check(capsys, "--root", image, "--strict", folder) == (1, lines)
    put(folder / "10-a.toml", "")
    assert check(capsys, "--root", image, "--strict", folder)[0] == 0


def test_without_a_drop_in_the_built_in_policy_is_noted(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, "--root", image, "--strict") == (
        0,
        [
            f"{image}/{SITE}: note: no drop-in is in force; the built-in policy applies: every module needs privilege",
            "no files, no rules, no marks, no call sites: no errors, no warnings, 1 note",
        ],
    )


# What the machine has.


def test_a_missing_passwd_is_an_error_only_if_a_rule_names_a_user(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(image / SITE / "10-a.toml", "[[rule]]\nusers = ['asterisk']\naction = 'deny'\n")
    (image / "etc/passwd").unlink()
    assert check(capsys, "--root", image) == (
        1, [f"{image}/etc/passwd: No such file or directory", "1 error, no warnings, no notes; the policy is invalid"]
    )  # fmt: skip
    put(image / SITE / "10-a.toml", "[[rule]]\nusers = [107]\naction = 'deny'\n")
    assert check(capsys, "--root", image, "--strict")[0] == 0


@pytest.mark.parametrize("lost", ["modules.dep", "modules.builtin"])
@pytest.mark.parametrize("options", [[], ["--kernel", KERNEL]])
def test_without_a_list_of_modules_names_are_not_checked(
    image: Path, capsys: pytest.CaptureFixture[str], lost: str, options: list[str]
) -> None:
    path = put(image / SITE / "10-a.toml", "[[mark]]\nmodules = ['nosuch']\naliases = ['nosuch']\nprivileged = true\n")
    assert check(capsys, "--root", image, "--strict", *options)[0] == 1
    (image / "lib/modules" / KERNEL / lost).unlink()
    note = (
        f"{image}/lib/modules/{KERNEL}: note: modules.dep or modules.builtin is missing, so names of modules and aliases"
        " were not checked; choose another kernel with --kernel"
    )
    for paths in ([], [path]):
        assert check(capsys, "--root", image, "--strict", *options, *paths) == (
            0, [note, "1 file, no rules, 1 mark, no call sites: no errors, no warnings, 1 note"]
        )  # fmt: skip


USAGE = [
    (["--kernel", "1.2"], "{image}/lib/modules/1.2: no such folder of modules; give the right --root and --kernel"),
    (["--kernel", ""], "--kernel: '' is not a kernel version; 'uname -r' prints one, and /lib/modules lists them"),
    (["--kernel", ".."], "--kernel: '..' is not a kernel version; 'uname -r' prints one, and /lib/modules lists them"),
    (["--kernel", "../../.."], "--kernel: '../../..' is not a kernel version; 'uname -r' prints one, and /lib/modules lists them"),
    (["--root", "{image}/nowhere"], "--root: {image}/nowhere: no such folder; give the root folder of a system"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "sentence"), USAGE)
def test_wrong_usage_is_one_sentence(
    image: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    put(image / SITE / "10-a.toml", MARK)
    arguments = ["check", "--root", str(image), *[each.format(image=image) for each in options]]
    assert main(arguments) == 1
    assert capsys.readouterr().err == f"safe-modprobectl: {sentence.format(image=image)}\n"


def test_facts_are_read_from_an_image(image: Path) -> None:
    put(image / "usr/bin/x")
    (image / "bin").symlink_to("usr/bin")
    (image / "usr/bin/abs").symlink_to("/bin/x")
    (image / "usr/bin/up").symlink_to("../../../../usr/./bin//abs")
    (image / "usr/bin/loop").symlink_to("loop")
    paths = {
        "/bin/x": "/usr/bin/x",
        "/usr/bin/x": "/usr/bin/x",
        "/bin/abs": "/usr/bin/x",
        "/bin/up": "/usr/bin/x",
        "/bin/loop": "",
        "/bin/gone": "",
        "/bin/x/y": "",
    }
    names = NamesInPolicy(frozenset({0, 5, 107, 100000, 165535, 165536}), frozenset({29, 30}), frozenset(paths))
    facts = read_facts(str(image), f"{image}/lib/modules/{KERNEL}", [f"{image}/etc/modprobe.d"], names)
    assert facts.kernel == KERNEL
    assert facts.modules == {"sctp", "libcrc32c", "a_b"}
    assert facts.built_in == {"unix"}
    assert facts.aliases == ("net_pf_2_proto_132", "pci:v*[A-C]_*", "my_own")
    assert facts.built_in_aliases == ("net_pf_1",)
    assert (facts.users, facts.groups) == ({0, 107, 100000, 165535}, {29})
    assert facts.units == ("asterisk.service", "exim4.service", "user@.service", "user@*.service", "*.scope")
    assert facts.programs == paths


def test_an_empty_folder_has_no_facts(tmp_path: Path) -> None:
    facts = read_facts(
        str(tmp_path), f"{tmp_path}/lib/modules/x", [], NamesInPolicy(frozenset({0}), frozenset({0}), frozenset())
    )
    assert (facts.modules, facts.users, facts.groups, facts.units) == (None, None, None, None)
    assert (facts.built_in, facts.aliases, facts.built_in_aliases) == (frozenset(), (), ())


def test_on_the_running_system_uids_and_gids_are_looked_up_by_name_services(tmp_path: Path) -> None:
    """Root has uid and gid 0 on every system. No account has the highest number."""
    facts = read_facts(
        None, f"{tmp_path}", [], NamesInPolicy(frozenset({0, 2**32 - 2}), frozenset({0, 2**32 - 2}), frozenset())
    )
    assert (facts.users, facts.groups) == ({0}, {0})


def test_an_unreadable_folder_of_drop_ins_is_an_error(tmp_path: Path) -> None:
    found = read_installed([str(put(tmp_path / "file"))])
    assert (found.files, [str(each) for each in found.findings]) == ((), [f"{tmp_path}/file: Not a directory"])
    assert [str(each) for each in read_draft(str(tmp_path / "no/such")).findings][
        -1
    ] == f"{tmp_path}/no/such: No such file or directory"


# The policy that the package ships.


def test_the_shipped_policy_has_no_errors_and_no_row_that_never_decides(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["check", "--json", str(TOP / "policy.d"), *map(str, sorted((TOP / "policy.d/examples").glob("*.toml")))])
        == 0
    )
    messages = [each["message"] for each in json.loads(capsys.readouterr().out)]
    assert [each for each in messages if "never" in each or "nothing new" in each] == []


def test_the_command_imports_no_optional_library() -> None:
    """rich and the other libraries are imported only where a command needs them."""
    code = (
        "import sys; from safe_modprobe.admin.commands.main import main; main(['check', 'policy.d']);"
        "print(sorted({'rich', 'jsonschema', 'tomlkit', 'systemd'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
