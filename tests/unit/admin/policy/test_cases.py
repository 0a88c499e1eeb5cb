"""A policy's own tests: TOML -> cases -> outcomes, and the command `safe-modprobectl test`."""

import json
import os
import subprocess
from pathlib import Path

import junitparser
import pytest

from safe_modprobe.admin.commands.main import main
from safe_modprobe.admin.policy.cases import Case, judge, parse_cases
from safe_modprobe.capability import ALL
from safe_modprobe.errors import PolicyError
from safe_modprobe.model import BUILT_IN, Caller, Plan, Source
from tests.tree.build import VERSION, Mod, build_tree
from tests.unit.child import ENVIRONMENT, ctl, ctl_command
from tests.unit.make import NoAccounts, cap, policy

POLICY = """
[[mark]]
modules = ["marked", "quiet"]
privileged = true
reason = "marked here"

[[mark]]
modules = ["net"]
privileged = "CAP_NET_ADMIN"

[[call_site]]
aliases = ["crypto-*"]
deputy = true

[[rule]]
aliases = ["noise"]
action = "deny"
quiet = true

[[rule]]
modules = ["loud"]
users = [7]
action = "log"
"""


def read(text: str) -> tuple[Case, ...]:
    return parse_cases("t/x.toml", text.encode(), NoAccounts())


def case(text: str) -> Case:
    (found,) = read(f'[[case]]\nrequest = "a"\nmodules = ["m"]\ncaller = {{ uid = 1000 }}\nverdict = "deny"\n{text}')
    return found


def caller_of(text: str) -> Caller:
    (found,) = read(f'[[case]]\nrequest = "a"\nmodules = ["m"]\ncaller = {text}\nverdict = "deny"\n')
    return found.callers[0]


PLAIN = Caller(Source.TRACEFS, 5, 5, frozenset(), 0, True, False)
CALLERS = [
    ("{ uid = 1000 }", PLAIN._replace(uid=1000, euid=1000)),
    ('{ uid = "asterisk" }', PLAIN._replace(uid=1001, euid=1001)),
    ("{ uid = 0 }", PLAIN._replace(uid=0, euid=0, capabilities=ALL)),
    ("{ uid = 1, euid = 0 }", PLAIN._replace(uid=1, euid=0, capabilities=ALL)),
    ("{ uid = 0, euid = 1 }", PLAIN._replace(uid=0, euid=1)),
    ('{ uid = 0, capabilities = ["CAP_CHOWN"] }', PLAIN._replace(uid=0, euid=0, capabilities=1)),
    (
        '{ uid = 0, user_namespace = "other" }',
        PLAIN._replace(uid=0, euid=0, capabilities=ALL, initial_user_namespace=False),
    ),
    ('{ uid = 5, source = "proc" }', PLAIN._replace(source=Source.PROC)),
    (
        '{ uid = 5, groups = [3, "audio"], no_new_privs = true, unit = "u", executable = "/e", call_site = "c" }',
        Caller(
            Source.TRACEFS, 5, 5, frozenset({3, 29}), 0, True, True, executable="/e", unit="u", call_site="c"
        ),
    ),
    ("{ kernel_thread = true }", PLAIN._replace(uid=0, euid=0, capabilities=ALL, kernel_thread=True)),
    ('"unknown"', Caller(Source.NONE)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "caller"), CALLERS)
def test_callers_are_parsed(text: str, caller: Caller) -> None:
    assert caller_of(text) == caller


def test_a_kernel_thread_names_the_callers_it_works_for() -> None:
    found = caller_of('{ kernel_thread = true, behind = [{ uid = 1 }, "unknown"] }')
    assert [each.uid for each in found.working_for] == [1, None]


def test_lists_make_one_case_for_each_alias_and_caller() -> None:
    found = read(
        '[callers]\nuser = { uid = 1000 }\n[[case]]\nname = "n"\nrequest = ["a", "b"]\nmodules = ["m"]\n'
        'caller = ["user", { uid = 5 }]\nbeside = "unknown"\nverdict = "log"\n'
        '[[case]]\nrequest = "c"\ncaller = "user"\nverdict = "allow"\n'
    )
    assert [(each.name, each.line, len(each.callers)) for each in found] == [
        ("n (a to uid 1000)", 3, 2),
        ("n (a to uid 5)", 3, 2),
        ("n (b to uid 1000)", 3, 2),
        ("n (b to uid 5)", 3, 2),
        ("c to uid 1000", 10, 1),
    ]
    assert found[0].plan is not None and found[0].plan.alias == "a"
    assert found[-1].plan is None and found[-1].place == "t/x.toml:10"


OUTCOMES = [
    # (what differs from one module m, uid 1000 and deny, the problem)
    ('modules = ["marked"]', ""),
    ('modules = ["m"]', "expected deny, got allow (m: not marked [built-in])"),
    (
        'modules = ["marked"]\nverdict = "allow"',
        "expected allow, got deny (marked: marked here; the caller lacks the required capability (CAP_SYS_MODULE)"
        " [50-test.toml:2])",
    ),
    ('modules = ["marked"]\ncaller = { uid = 0 }\nverdict = "allow"', ""),
    ('modules = ["marked"]\norigin = "50-test.toml"', ""),
    ('modules = ["marked"]\norigin = "50-test.toml:2"', ""),
    (
        'modules = ["marked"]\norigin = "50-test.toml:3"',
        "expected deny by 50-test.toml:3, got deny (marked: marked here; the caller lacks the required capability"
        " (CAP_SYS_MODULE) [50-test.toml:2])",
    ),
    ('modules = ["m", "marked"]', ""),
    ('modules = ["marked", "m"]', ""),
    ('modules = [{ name = "marked", soft = true }, "m"]\nverdict = "allow"\nskipped = ["marked"]', ""),
    (
        'modules = [{ name = "marked", soft = true }, "m"]\nverdict = "allow"\nskipped = ["m"]',
        "expected allow skipping m, got allow skipping marked (m: not marked [built-in])",
    ),
    (
        'modules = ["m"]\nverdict = "allow"\nskipped = ["m"]',
        "expected allow skipping m, got allow skipping nothing (m: not marked [built-in])",
    ),
    ('modules = [{ name = "m", marker = "Y" }]', ""),
    ('modules = [{ name = "m", marker = "CAP_NET_ADMIN" }]', ""),
    ('modules = [{ name = "m", marker = "N" }]\nverdict = "allow"', ""),
    ('request = "noise"\nquiet = true', ""),
    (
        'request = "noise"\nquiet = false',
        "expected deny recorded, got deny unrecorded (m: a rule says deny [50-test.toml:15])",
    ),
    ('modules = ["loud"]\ncaller = { uid = 7 }\nverdict = "log"', ""),
    ('modules = ["net"]\ncaller = { uid = 9, capabilities = ["CAP_NET_ADMIN"] }\nverdict = "allow"', ""),
    ('modules = ["net"]\ncaller = { uid = 0, user_namespace = "other" }', ""),
    ('modules = ["marked"]\ncaller = "unknown"', ""),
    # One privileged caller is enough, unless /proc is the source: then every caller must be privileged.
    ('modules = ["marked"]\nbeside = { uid = 0 }\nverdict = "allow"', ""),
    ('modules = ["marked"]\nbeside = { uid = 0, source = "proc" }', ""),
    ('modules = ["marked"]\ncaller = { kernel_thread = true }\nverdict = "allow"', ""),
    ('request = "crypto-x"\nmodules = ["marked"]\ncaller = { kernel_thread = true }', ""),
    ('request = "crypto-x"\nmodules = ["marked"]\ncaller = { kernel_thread = true, behind = { uid = 5 } }', ""),
    (
        'request = "crypto-x"\nmodules = ["marked"]\ncaller = { kernel_thread = true, behind = { uid = 0 } }\n'
        'verdict = "allow"',
        "",
    ),
    ('modules = ["marked"]\nkernel_args = ["grsec_modharden_normal1000_"]\ncaller = false', ""),
    (
        'modules = [{ name = "m", registers_filesystem = false }]\nkernel_args = ["grsec_modharden_fs"]\n'
        'caller = { uid = 0 }',
        "",
    ),
]  # fmt: skip


def row(text: str) -> str:
    """Return a whole [[case]], with default values for missing keys; `caller = false` omits the caller."""
    defaults = {"request": '"a"', "modules": '["m"]', "caller": "{ uid = 1000 }", "verdict": '"deny"'}
    given = {line.partition(" = ")[0] for line in text.splitlines()}
    kept = [line for line in text.splitlines() if not line.endswith("caller = false")]
    return "\n".join(["[[case]]", *kept, *[f"{key} = {defaults[key]}" for key in defaults if key not in given]]) + "\n"


@pytest.mark.parametrize(("text", "problem"), OUTCOMES)
def test_problems_of_outcomes(text: str, problem: str) -> None:
    (found,) = read(row(text))
    assert found.plan is not None
    assert judge(policy(POLICY), found, found.plan).problem == problem


def test_a_trial_does_not_change_an_outcome() -> None:
    (found,) = read(row('modules = ["marked"]'))
    assert found.plan is not None
    assert judge(policy(POLICY + "[settings]\ntrial = true\n"), found, found.plan).problem == ""


def test_a_case_with_nothing_to_decide_is_vacuous() -> None:
    found = case("")
    assert found.plan is not None
    assert not judge(policy(POLICY), found, found.plan).vacuous
    outcome = judge(policy(POLICY), found, Plan("a"))
    assert outcome.vacuous and outcome.verdict.origin == BUILT_IN
    assert outcome.problem == "expected deny, got allow (no module matches this alias [built-in])"


_CASE_KEYS = "'name', 'request', 'kernel_args', 'modules', 'caller', 'beside', 'verdict', 'origin', 'skipped', 'quiet'"
_CALLER_KEYS = (
    "'uid', 'euid', 'groups', 'capabilities', 'user_namespace', 'no_new_privs', 'kernel_thread', 'unit',"
    " 'executable', 'call_site', 'source', 'behind'"
)

ERRORS = [
    ("[[cases]]\n", ":1: cases: no such table; a file of tests has 'callers' and 'case'"),
    ("case = 5\n", ":1: case: 5 is not an array of tables; write [[case]]"),
    ("case = [5]\n", ":1: case: [5] is not an array of tables; write [[case]]"),
    ("[case]\n", ":1: case: {} is not an array of tables; write [[case]]"),
    ("callers = 1\n", ":1: callers: 1 is not a table; write [callers]"),
    ("callers.unknown = {}\n", ":1: unknown: this name is reserved for an unidentified caller; choose another"),
    (
        "[callers]\nx = 5\n",
        ":2: x: 5 is not a caller; write { uid = 1000 }, or one of 'unknown'",
    ),
    (
        '[callers]\nx = { uid = 1 }\n[[case]]\nrequest = "a"\ncaller = "y"\nverdict = "log"\n',
        ":5: caller: 'y' is not a caller; write { uid = 1000 }, or one of 'unknown', 'x'",
    ),
    ("[[case]]\n", ":1: case: 'request' is missing; it is the alias to request"),
    ('[[case]]\nrequest = "a"\n', ":1: case: 'verdict' is missing; it is the expected verdict"),
    (
        '[[case]]\nrequest = "a"\nverdict = "deny"\n',
        ":1: case: 'caller' is missing; it is a table such as { uid = 1000 }",
    ),
    (row("color = 1"), f":2: color: no such key; case has {_CASE_KEYS}"),
    (row('verdict = "denied"'), ":2: verdict: 'denied' is not one of 'allow', 'log', 'deny'"),
    (row("verdict = true"), ":2: verdict: true is not one of 'allow', 'log', 'deny'"),
    (row("request = 38"), ":2: request: 38 is not a string such as 'net-pf-38'"),
    (row('request = ""'), ":2: request: the alias has 0 bytes; it may have 1 to 4095"),
    (row("request = []"), ":2: request: [] contains no alias; give at least one"),
    (row('request = ["a",\n  5]').replace("  5 = ", "  5"), ":3: request: 5 is not a string such as 'net-pf-38'"),
    (row(f'request = "{"x" * 4096}"'), ":2: request: the alias has 4096 bytes; it may have 1 to 4095"),
    (row("origin = 4"), ":2: origin: 4 is not a string"),
    (row('quiet = "yes"'), ":2: quiet: 'yes' is not true or false"),
    (row('modules = "m"'), ":2: modules: 'm' is not a list; write ['m']"),
    (
        row("modules = []"),
        ":2: modules: [] loads nothing; name at least one module, or omit the key to use the plan of this kernel",
    ),
    (
        row("modules = [5]"),
        ":2: modules: 5 is not a module; write 'af_alg', or { name = 'af_alg', marker = 'Y' }",
    ),
    (row("modules = [{}]"), ":2: modules: 'name' is missing; it is the module's name"),
    (row('modules = [""]'), ":2: modules: 'name' is missing; it is the module's name"),
    (row('modules = ["a", "a"]'), ":2: modules: 'a' is listed twice; a module is inserted once"),
    (
        row('modules = ["a", { name = "b", soft = true }]'),
        ":2: modules: the last module is the target of the request, so it cannot be a soft dependency",
    ),
    (
        row('modules = [{ name = "a", marker = "y" }]'),
        ":2: marker: 'y' is not 'Y', 'N' or a capability such as 'CAP_NET_ADMIN'",
    ),
    (
        row('modules = [{ name = "a", mark = "Y" }]'),
        ":2: mark: no such key; modules has 'name', 'marker', 'soft', 'registers_filesystem'",
    ),
    (row("caller = 1000"), ":2: caller: 1000 is not a caller; write { uid = 1000 }, or one of 'unknown'"),
    (row("caller = []"), ":2: caller: [] contains no caller; name at least one, or write 'unknown'"),
    (
        row("caller = {}"),
        ":2: caller: it identifies no caller; give 'uid' or kernel_thread = true, or write 'unknown' instead",
    ),
    (row("caller = { user = 5 }"), f":2: user: no such key; caller has {_CALLER_KEYS}"),
    (row("caller = { uid = -1 }"), ":2: uid: -1 is not a user's number, which is from 0 to 4294967294"),
    (
        row('caller = { uid = "nobody-here" }'),
        ":2: uid: 'nobody-here' is not a user in /etc/passwd; name services are not queried, so give the number",
    ),
    (
        row('caller = { uid = 5, capabilities = ["net_admin"] }'),
        ":2: capabilities: 'net_admin' is not a capability; did you mean 'CAP_NET_ADMIN'?",
    ),
    (
        row("caller = { uid = 5, behind = { uid = 6 } }"),
        ":2: behind: only a kernel thread works for other tasks; add kernel_thread = true",
    ),
    (
        row("caller = { kernel_thread = true, behind = { uid = 6, x = 1 } }"),
        f":2: x: no such key; behind has {_CALLER_KEYS}",
    ),
    (
        row('kernel_args = ["grsec_modharden_normal5_"]'),
        ":5: caller: 'kernel_args' name the caller already; remove one of the two",
    ),
    ('[[case]]\nrequest = "a\n', ":2: Illegal character '\\n', so this is not TOML"),
]


@pytest.mark.parametrize(("text", "sentence"), ERRORS, ids=range(len(ERRORS)))
def test_each_error_is_one_sentence_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(PolicyError) as error:
        read(text)
    assert str(error.value) == f"t/x.toml{sentence}"


# The command.


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system image with a policy, its tests, and a kernel."""
    root = tmp_path_factory.mktemp("root")
    build_tree(root, [Mod("marked", ("marked-alias",)), Mod("plain", ("plain-alias",), ("marked",)), Mod("free")])
    for folder in ("usr/lib/safe-modprobe/policy.d", "usr/lib/safe-modprobe/tests.d", "etc/safe-modprobe/tests.d"):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/safe-modprobe/policy.d/50-test.toml").write_text(POLICY)
    (root / "etc/passwd").write_text("asterisk:x:1001:1001::/:/bin/sh\n")
    (root / "etc/group").write_text("")
    write(root / "usr/lib/safe-modprobe/tests.d/ours.toml", 'name = "ours"\nrequest = "marked-alias"')
    write(root / "usr/lib/safe-modprobe/tests.d/site.toml", 'name = "replaced"\nrequest = "free"')
    write(root / "usr/lib/safe-modprobe/tests.d/wrong.toml", 'name = "masked"\nrequest = "free"')
    write(root / "etc/safe-modprobe/tests.d/site.toml", 'name = "site"\nrequest = "plain-alias"')
    (root / "etc/safe-modprobe/tests.d/wrong.toml").symlink_to("/dev/null")
    (root / "etc/safe-modprobe/tests.d/notes.txt").write_text("not a test")
    return root


def write(path: Path, *rows: str) -> Path:
    bodies = ["\n".join(line for line in row(text).splitlines() if line != 'modules = ["m"]') + "\n" for text in rows]
    path.write_text("".join(bodies))
    return path


def test_root_option_uses_the_tests_and_kernel_of_an_image(root: Path) -> None:
    done = ctl("test", "-v", "--root", root, "--kernel", VERSION)
    why = "marked here; the caller lacks the required capability (CAP_SYS_MODULE) [50-test.toml:2])"
    assert done.stdout.splitlines() == [
        f"{root}/usr/lib/safe-modprobe/tests.d/ours.toml:1: ours: ok, deny (marked: {why}",
        f"{root}/etc/safe-modprobe/tests.d/site.toml:1: site: ok, deny (marked: {why}",
        "2 cases, none failed",
    ]
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failure_prints_file_and_line(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "t.toml", 'name = "\u202eodd"\nrequest = "free"', 'name = "fine"\nrequest = "marked"')
    done = ctl("test", "--root", root, "t.toml", cwd=tmp_path)
    assert done.stdout == (
        "t.toml:1: \\xe2\\x80\\xaeodd: expected deny, got allow (free: not marked [built-in])\n2 cases, 1 failed\n"
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_json_and_junit_report_the_same_failures(root: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "t.toml", 'name = "<&\\u001b]"\nrequest = "free"'.replace("\\u001b", "\u202e"), 'request = "marked"'
    )
    junit = tmp_path / "out.xml"
    done = ctl("test", "--root", root, "--json", "--junit", junit, tmp_path / "t.toml")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(each["line"], each["passed"], each["expected"], each["verdict"]) for each in found] == [
        (1, False, "deny", "allow"),
        (6, True, "deny", "deny"),
    ]
    (suite,) = junitparser.JUnitXml.fromfile(str(junit))
    assert (suite.name, suite.tests, suite.failures) == (str(tmp_path / "t.toml"), 2, 1)
    first, second = suite
    assert first.name == "<&\\xe2\\x80\\xae]" and first.classname == f"{tmp_path}/t.toml:1"
    assert [each.message for each in first.result] == [found[0]["problem"]]
    assert second.result == []


def test_many_cases_keep_no_file_open(root: Path, tmp_path: Path) -> None:
    """Each plan opens its modules, and a process may have 1,024 files."""
    path = tmp_path / "many.toml"
    names = ", ".join(['"marked"'] * 1500)
    path.write_text(f'[[case]]\nrequest = [{names}]\ncaller = {{ uid = 5 }}\nverdict = "deny"\n')
    done = ctl("test", "--root", root, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1500 cases, none failed\n", "")


def test_cases_with_nothing_to_decide_are_counted_and_alone_fail(root: Path, tmp_path: Path) -> None:
    idle = 'request = "no-such-alias"\nverdict = "allow"'
    note = "1 case had nothing to decide on this kernel; give 'modules' to test on any kernel\n"
    done = ctl("test", "--root", root, write(tmp_path / "t.toml", idle))
    assert (done.returncode, done.stdout) == (1, f"1 case, none failed\n{note}")
    done = ctl("test", "--root", root, write(tmp_path / "t.toml", idle, 'request = "marked"'))
    assert (done.returncode, done.stdout) == (0, f"2 cases, none failed\n{note}")


WRONG = [
    (["missing.toml"], "missing.toml: No such file or directory"),
    (["--root", "missing"], "--root: missing: no such folder; give the root folder of a system"),
    (["empty"], "empty: no [[case]] found, so nothing was tested; see safe-modprobe.toml(5)"),
    (["empty/e.txt"], "empty/e.txt: no [[case]] found, so nothing was tested; see safe-modprobe.toml(5)"),
    (
        ["--root", "empty"],
        "empty/usr/lib/safe-modprobe/tests.d, empty/etc/safe-modprobe/tests.d: no [[case]] found, so nothing was"
        " tested; see safe-modprobe.toml(5)",
    ),
    (["/dev/zero"], "/dev/zero: it is not a file"),
    (["fifo"], "fifo: it is not a file"),
    (["binary.toml"], "binary.toml:1: byte 0xff is not UTF-8; TOML is UTF-8 throughout"),
    (["huge.toml"], "huge.toml: the file has 1048577 bytes; it may have 1048576"),
    (["deep.toml"], "deep.toml: the file is nested too deep; a policy needs two levels, as the manual shows"),
    (["--policy", "missing", "t.toml"], "missing: No such file or directory"),
    (["--policy", "empty", "t.toml"], "empty: no drop-in found; the name of a drop-in ends in .toml"),
    (["--policy", "t.toml", "t.toml"], "t.toml: Not a directory"),
    (
        ["--policy", "broken", "t.toml"],
        "broken/1.toml:1: mod: no such table; a policy has 'settings', 'mark', 'call_site', 'rule'",
    ),
    (["--policy", "good", "--junit", "/dev/full", "t.toml"], "/dev/full: No space left on device"),
    (["--policy", "good", "--junit", "missing/x.xml", "t.toml"], "missing/x.xml: No such file or directory"),
    (
        ["--policy", "good", "--kernel", "0.0-none", "plan.toml"],
        "plan.toml:1: marked to uid 1000: no plan for this kernel (/lib/modules/0.0-none: no such folder of modules;"
        " give the right -d and -S); give 'modules', or --root and --kernel",
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=range(len(WRONG)))
def test_each_wrong_argument_is_one_sentence(
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("empty", "broken", "good"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty/e.txt").write_text("")
    (tmp_path / "good/1.toml").write_text("")
    (tmp_path / "broken/1.toml").write_text("mod = 1\n")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "binary.toml").write_bytes(b"\xff\x00")
    (tmp_path / "huge.toml").write_bytes(b"#" * ((1 << 20) + 5))
    (tmp_path / "deep.toml").write_text("x = " + "[" * 5000 + "]" * 5000)
    (tmp_path / "t.toml").write_text(row(""))
    write(tmp_path / "plan.toml", 'request = "marked"')
    monkeypatch.chdir(tmp_path)
    assert main(["test", *arguments]) == 1
    assert capsys.readouterr() == ("", f"safe-modprobectl: {sentence}\n")


def test_a_policy_option_uses_drafts(tmp_path: Path) -> None:
    """The last folder wins, a link to /dev/null masks, and the modes of the files are not checked."""
    for name, text in (("a", POLICY), ("b", '[settings]\nmode = "disabled"\n')):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name / "50-test.toml").write_text(text)
        (tmp_path / name / "50-test.toml").chmod(0o666)
    test = tmp_path / "t.toml"
    test.write_text(row('modules = ["free"]\nverdict = "allow"'))
    assert ctl("test", "--policy", tmp_path / "a", test).returncode == 0
    assert ctl("test", "--policy", tmp_path / "a", "--policy", tmp_path / "b", test).returncode == 1
    assert ctl("test", "--policy", tmp_path / "b", "--policy", tmp_path / "a", test).returncode == 0
    (tmp_path / "b/50-test.toml").unlink()
    (tmp_path / "b/50-test.toml").symlink_to("/dev/null")
    (tmp_path / "a/90.toml").write_text('[settings]\nmode = "privileged"\n')
    assert ctl("test", "--policy", tmp_path / "a", "--policy", tmp_path / "b", test).returncode == 1


def test_a_closed_pipe_gives_no_traceback(tmp_path: Path) -> None:
    test = tmp_path / "t.toml"
    names = ", ".join(f'"alias-{index}"' for index in range(3000))
    test.write_text(f'[[case]]\nrequest = [{names}]\nmodules = ["m"]\ncaller = {{ uid = 5 }}\nverdict = "deny"\n')
    (tmp_path / "p").mkdir()
    (tmp_path / "p/1.toml").write_text("")
    command = ctl_command("test", "--policy", tmp_path / "p", test)
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert started.stdout is not None and started.stderr is not None
    started.stdout.readline()
    started.stdout.close()
    errors = started.stderr.read()
    assert (started.wait(), errors) == (1, b"")


def test_capabilities_become_the_kernels_bits() -> None:
    assert caller_of('{ uid = 5, capabilities = ["CAP_NET_ADMIN"] }').capabilities == 1 << cap("CAP_NET_ADMIN")
