"""The survey of request_module(): ways to write it in C, trees that are not a kernel, and series that do not apply."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from survey.model import Call, Kind, SurveyError, Use
from survey.names import name_of
from survey.parse import FORMATS, WORD, parse
from survey.series import applied
from survey.tree import survey

TOP = Path(__file__).resolve().parents[3]
MAKEFILE = "# SPDX-License-Identifier: GPL-2.0\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 192\nEXTRAVERSION =\n"
KMOD = "int __request_module(bool wait, const char *fmt, ...)\n{\n\treturn 0;\n}\nEXPORT_SYMBOL(__request_module);\n"


def tree(top: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, text in {"Makefile": MAKEFILE, "kernel/kmod.c": KMOD, **files}.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return top


def body(statement: str) -> str:
    return f"static int ask(const char *name)\n{{\n\t{statement}\n}}\n"


C, K = Kind.CONSTANT, Kind.CONSTRUCTED
P = Kind.PREFIXED

NAMES = [
    ('request_module("af_key");', "af_key", C),
    ('request_module("net-pf-%d", family);', "net-pf-*", P),
    ('request_module("net-pf-%d-proto-%d-type-%d", a, b, c);', "net-pf-*-proto-*-type-*", P),
    ('return request_module(\n\t\t"can-proto-%d",\n\t\tprotocol);', "can-proto-*", P),
    ('request_module("binfmt-%04x", *(ushort *)(bprm->buf + 2));', "binfmt-*", P),
    ('request_module("ulpi:v%04xp%04x", v, p);', "ulpi:v*p*", P),
    ('request_module("fs-%.*s", len, name);', "fs-*", P),
    ('request_module("fs-%.*s-%s", len, name, "x");', "fs-*-x", P),
    ('request_module("w-%*d-%s", width, value, "x");', "w-*-x", P),
    ('request_module("%s-iosched", name);', "*-iosched", K),
    ('request_module("%s", name);', "*", K),
    ('request_module("%s%s", "i2c:", name);', "i2c:*", P),
    ('request_module("%s", "nfnetlink_log");', "nfnetlink_log", C),
    ('request_module("%s");', "*", K),
    ('request_module("%s%s", name);', "*", K),
    ('request_module("%5s-x", "abc");', "*-x", K),
    ('request_module("a%%b");', "a%b", C),
    ('request_module("pr%pOF", node);', "pr*", P),
    ('request_module("rc[%d]*?", n);', "rc[[]*][*][?]", P),
    ('request_module("x[*]");', "x[[][*]]", C),
    ('request_module("snd-" "card-%i", card);', "snd-card-*", P),
    ('request_module("net-" PREFIX "%s", name);', "net-own-*", P),
    ('request_module(PREFIX "%s", name);', "own-*", P),
    ('request_module(PREFIX);', "own-", C),
    ('request_module("%s%s", PREFIX, name);', "own-*", P),
    ('request_module("net-pf-%d-proto-%u", NUMBER, 0);', "net-pf-5-proto-0", C),
    ('request_module("net-pf-%d-proto-%d-type-%i", FAMILY, protocol, NUMBER);', "net-pf-5-proto-*-type-5", P),
    ('request_module("x-%02d-%x-%d-%d-%d", NUMBER, NUMBER, NUMBER + 1, 0x5, 05);', "x-*-*-*-*-*", P),
    ('request_module("x-%s-%d-%d", NUMBER, PREFIX, MANY);', "x-*-*-*", P),
    ('request_module("x-%d-%d", LOOP, UNDEFINED);', "x-*-*", P),
    ('request_module(NUMBER);', "*", K),
    ('request_module(5);', "*", K),
    ('request_module("a-" NUMBER "-%d", n);', "a-*-*", P),
    ('x = request_module(NESTED FORMAT, n);', "own-nested-*", P),
    ('request_module(LOOP "x");', "*x", K),
    ('request_module("a-" UNDEFINED);', "a-*", P),
    ('request_module("a-" __stringify(NUMBER));', "a-*", P),
    ('request_module(name);', "*", K),
    ('request_module(table[i]);', "*", K),
    ('request_module(*names);', "*", K),
    ('request_module(wide ? "one" : "two");', "*", K),
    ('request_module();', "*", K),
    ('request_module(/* "a" */ "b" /* , */);', "b", C),
    ('request_module(("in-%d"), n);', "in-*", P),
    ('request_module("comma,%s", "a,b");', "comma,a,b", C),
    ('request_module("quote\\"%d", n);', 'quote\\"*', P),
    ('request_module_nowait("nowait-%d", n);', "nowait-*", P),
    ('__request_module(true, "deep-%d", n);', "deep-*", P),
    ('try_then_request_module(look(name, 5), "then-%s", name);', "then-*", P),
    ('found = try_then_request_module(look(f(a, b), "no"),\n\t"then-%s", name);', "then-*", P),
    ('if (nft_request_module(net, "nft-expr-%u-%.*s", family, len, text) == -EAGAIN)\n\t\treturn 0;', "nft-expr-*-*", P),
    ('request_module_cap(CAP_NET_ADMIN, "netdev-", "netdev-%s", name);', "netdev-*", P),
    ('while (!(x = f()) && !request_module("in-%d", n))\n\t\t;', "in-*", P),
    ('for_each_thing(a, b) {\n\t\trequest_module("in-%d", n);\n\t}', "in-*", P),
    ('for_each_thing(a, b)\n\t\trequest_module("in-%d", n);', "in-*", P),
    ('#if IS_ENABLED(CONFIG_X)\n\tif (x)\n#endif\n\t\trequest_module("in-%d", n);', "in-*", P),
    ('#ifdef X\n\tif (a) {\n#else\n\tif (b) {\n#endif\n\t\trequest_module("in-%d", n);\n\t}', "in-*", P),
    ('guard(mutex)(&lock);\n\trequest_module("in-%d", n);', "in-*", P),
    ('scoped_guard(rcu) {\n\t\trequest_module("in-%d", n);\n\t}', "in-*", P),
    ('switch (x) {\n\tcase A ... B:\n\t\trequest_module("in-%d", n);\n\t}', "in-*", P),
    ('({ request_module("in-%d", n); });', "in-*", P),
    ('request_module("long-%d"\n#ifdef X\n\t"-x"\n#endif\n\t, n);', "long-*", P),
]  # fmt: skip

MACROS = """#define PREFIX "own-"
#define NUMBER 5 /* five */
#define FAMILY (NUMBER)
#define MANY 5 6
#define FORMAT "nested-%d"
#define NESTED PREFIX
#define LOOP LOOP
"""


@pytest.mark.parametrize(("statement", "name", "kind"), NAMES, ids=[statement for statement, *_ in NAMES])
def test_the_requested_name_of_a_call_is_found(statement: str, name: str, kind: Kind, tmp_path: Path) -> None:
    found = survey(tree(tmp_path, {"net/a.c": MACROS + body(statement)}))
    (call,) = found.calls
    assert (call.function, call.name, call.kind) == ("ask", name, kind)
    assert call.line == MACROS.count("\n") + body(statement)[: body(statement).index("request_module")].count("\n") + 1
    assert [mention for mention in found.mentions if mention.use is Use.UNKNOWN] == []


U = Use

USES = [
    ("/* request_module() */\n", [U.COMMENT]),
    ("// request_module(\n", [U.COMMENT]),
    (body('/*\n\t * request_module("a") request_module_nowait()\n\t */'), [U.COMMENT, U.COMMENT]),
    (body('/* request_module("x"); */ request_module("a"); // request_module("y");'), [U.COMMENT, U.CALL, U.COMMENT]),
    (body('pr_info("request_module(%s) failed", name);'), [U.STRING]),
    (body('pr_info("a" "request_module \\" request_module");'), [U.STRING, U.STRING]),
    ("int __request_module(bool wait, const char *fmt, ...);\n", [U.DECLARATION]),
    ("extern __printf(2, 3)\nint __request_module(bool wait, const char *fmt, ...);\n", [U.DECLARATION]),
    ("static inline void request_module_x(void) { }\n", [U.DEFINITION]),
    ("struct device *request_module_x(void)\n{\n\treturn NULL;\n}\n", [U.DEFINITION]),
    ("#define request_module(mod...) __request_module(true, mod)\n", [U.MACRO, U.MACRO]),
    ("#define try_then_request_module(x, mod...) \\\n\t((x) ?: (__request_module(true, mod), (x)))\n", [U.MACRO, U.MACRO]),
    ("#define flush_request_modules(dev) do {} while (0)\n", [U.MACRO]),
    ('#define load(x) request_module("own-" x)\n', [U.CALL]),
    ('#define load(x) do { \\\n\tif (y) \\\n\t\trequest_module("own-%s", x); \\\n} while (0)\n', [U.CALL]),
    ('#define warn(x) pr_warn("request_module %s", x)\n', [U.STRING]),
    ("#define load(x) request_module(x)\n", [U.UNKNOWN]),
    ("#define load(x, fmt...) request_module(fmt)\n", [U.UNKNOWN]),
    ("#define load request_module\n", [U.UNKNOWN]),
    ("#define load(dev) request_modules(dev)\n", [U.MACRO]),
    ("#define quiet(x) do { /* request_module() */ } while (0)\n", [U.COMMENT]),
    ("EXPORT_SYMBOL(__request_module);\n", [U.REFERENCE]),
    ("static struct x y = { .init = i915_request_module_init };\n", [U.REFERENCE]),
    ("static struct x y[] = { { i915_request_module_init, 5 } };\n", [U.REFERENCE]),
    (body("INIT_WORK(&dev->request_module_wk, request_module_async);"), [U.VARIABLE, U.REFERENCE]),
    (body("hook = &request_module_async;"), [U.REFERENCE]),
    ("struct dev {\n\tstruct work_struct request_module_wk;\n};\n", [U.VARIABLE]),
    (body("DECLARE_WORK(request_module_work, f);"), [U.REFERENCE]),
    ("static int request_module_delayed;\n", [U.VARIABLE]),
    ("int f(int request_module)\n{\n}\n", [U.VARIABLE]),
    (body("blk_request_module(dev);"), [U.FUNCTION]),
    (body("request_modules(dev);"), [U.FUNCTION]),
    ("", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "uses"), USES, ids=[text or "nothing" for text, _ in USES])
def test_the_use_of_each_mention_is_found(text: str, uses: list[Use]) -> None:
    mentions, calls = parse("a.c", text.encode())
    assert [mention.use for mention in mentions] == uses
    assert len(calls) == uses.count(U.CALL)


def test_a_macro_with_a_name_in_it_counts_as_a_call() -> None:
    text = '\n#define load(x) do { \\\n\trequest_module("own-%s", x); \\\n} while (0)\n'
    _, (call,) = parse("a.h", text.encode())
    assert (call.line, call.function, call.format, name_of(call, {})) == (3, "load", '"own-%s"', "own-*")


@pytest.mark.parametrize(
    "text",
    [
        body("request_module request_module request_module"),
        body("request_module(NESTED FORMAT, n);"),  # The parser takes it for a declaration.
        "static DECLARE_WORK(request_module, f);\n",
        body('x = = request_module "a" );'),
        body("int request_module(int x);"),
        "enum { request_module };\n",
        "#if request_module\n#endif\n",
        "#define load(x) request_module(x)\n",
        "request_module",
        "((((((request_module",
    ],
)
def test_a_mention_that_is_not_understood_is_reported(text: str) -> None:
    mentions, calls = parse("a.c", text.encode())
    assert len(mentions) == text.count("request_module")
    assert Use.UNKNOWN in {mention.use for mention in mentions} and not calls


@pytest.mark.parametrize("name", ["Documentation/a.rst", "scripts/a.sh", "arch/x/a.S", "rust/a.rs", "a.c.orig", "a.cc"])
def test_a_mention_outside_c_is_text(name: str, tmp_path: Path) -> None:
    found = survey(tree(tmp_path, {name: 'request_module("a")\n'}))
    assert [mention.use for mention in found.mentions if mention.file == name] == [Use.TEXT]
    assert found.calls == ()


ODD = {
    "net/latin.c": b"/* \xe4\xff */\n" + body('request_module("lat\xe4in-%d", n);').encode("latin-1"),
    "net/crlf.c": body('request_module("crlf-%d", n);').replace("\n", "\r\n"),
    "net/no_newline.c": 'void f(void) { request_module("end-%d", n); }',
    "net/binary.o": b"\x7fELF\0\0request_module\0",
    "net/late_nul.c": body('request_module("late-%d", n);').encode() + b" " * 9000 + b"\0",
    "net/deep.c": "int x = " + "(" * 20000 + "1" + ")" * 20000 + ";\n" + body('request_module("deep-%d", n);'),
    "net/long.c": body(f'request_module("{"x" * 100000}%d", n);'),
    "net/empty.c": "",
    "net/sp ace\n\x1b.c": body('request_module("odd-%d", n);'),
    "Documentation/x.txt": 'request_module("text-%d")\nrequest_module\nrequest_module("text")\nrequest_modules %\n',
}


def odd(top: Path) -> Path:
    """Make a tree with unusual files: encodings, links, a pipe."""
    tree(top, ODD)
    os.mkfifo(top / "net/pipe.c")
    (top / "net/gone.c").symlink_to("nowhere")
    (top / "net/twice.c").symlink_to("crlf.c")
    (top / "net/loop").symlink_to(".")
    tree(top, {".git/x.c": body('request_module("never");')})
    return top


def test_unusual_files_are_read_once_or_skipped(tmp_path: Path) -> None:
    found = survey(odd(tmp_path))
    assert {call.file: call.prefix for call in found.calls} == {
        "net/latin.c": "lat\\xe4in-", "net/crlf.c": "crlf-", "net/no_newline.c": "end-", "net/late_nul.c": "late-",
        "net/deep.c": "deep-", "net/long.c": "x" * 100000, "net/sp ace\n\x1b.c": "odd-",
    }  # fmt: skip


def grep(top: Path, *pipe: str) -> int:
    """Return the count of the command in the thread of 2017, run with its own tools."""
    script = " | ".join(["git grep --no-index -I request_module'\\b'", *pipe, "wc -l"])
    done = subprocess.run(["sh", "-c", script], cwd=top, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_lines_are_counted_as_in_2017(tmp_path: Path) -> None:
    found = survey(odd(tmp_path)).grep
    (tmp_path / ".git/x.c").unlink()
    (tmp_path / ".git").rmdir()
    assert found.lines == grep(tmp_path) > 10
    assert found.constant == grep(tmp_path, "grep -av %", "grep -a '\"'") > 0
    assert found.formatted == grep(tmp_path, "grep -a %") > 0


def test_every_mention_is_counted_once(tmp_path: Path) -> None:
    texts = [text for text, _ in USES] + [MACROS + body(statement) for statement, *_ in NAMES]
    top = tree(tmp_path, {f"net/{number}.c": text for number, text in enumerate(texts)})
    found = survey(top)
    assert Counter(mention.file for mention in found.mentions) == Counter(
        str(path.relative_to(top)) for path in top.rglob("*.c") for _ in WORD.finditer(path.read_bytes())
    )
    assert len(found.calls) == sum(mention.use is Use.CALL for mention in found.mentions)


def test_a_macro_of_several_headers_is_used_if_they_agree(tmp_path: Path) -> None:
    found = survey(
        tree(tmp_path, {
            "include/a.h": '#define SAME "same-"\n#define DIFFERS "one-"\n#define OUTER INNER\n#define OWN "header-"\n',
            "include/b.h": '#  define SAME "same-" /* again */\n#define DIFFERS "two-"\n#define INNER "in" "ner-" // !\n',
            "include/c.h": '#define LONG \\\n\t"long-"\n#define SAMENESS "no"\n#define BOTH ("both-")\n#define CALL f("x")\n',
            "net/a.c": '#define OWN "own-"\n#ifdef X\n#define EITHER "a-"\n#else\n#define EITHER "b-"\n#endif\n' + "".join(
                body(f'request_module({name} "%d", n);')
                for name in ("SAME", "DIFFERS", "OUTER", "OWN", "LONG", "BOTH", "CALL", "EITHER")
            ),
        })
    )  # fmt: skip
    assert [call.name for call in found.calls] == ["same-*", "*", "inner-*", "own-*", "long-*", "both-*", "*x*", "*"]


# The series.

BEFORE = '#include <x.h>\n\nstatic void load(const char *name)\n{\n\trequest_module("netdev-%s", name);\n\trequest_module("%s", name);\n}\n'
AFTER = BEFORE.replace('request_module("netdev-', 'request_module_cap(CAP_NET_ADMIN, "netdev-", "netdev-')


def patch(top: Path, name: str, file: str, before: str, after: str) -> None:
    """Write a patch in git's format."""
    for side, text in (("a", before), ("b", after)):
        (top / side / file).parent.mkdir(parents=True, exist_ok=True)
        (top / side / file).write_text(text)
    done = subprocess.run(
        ["git", "diff", "--no-index", "--no-prefix", "a", "b"], cwd=top, capture_output=True, text=True
    )
    (top / name).write_text(f"Subject: {name}\n\nWhy.\n---\n{done.stdout}")
    assert "@@" in done.stdout


def run(*arguments: str | Path, path: str | None = None) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": str(TOP / "packaging/kernel"), **({"PATH": path} if path else {})}
    command = [sys.executable, "-B", "-m", "survey", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return tree(tmp_path / "linux", {"net/dev.c": BEFORE})


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    patch(tmp_path / "patches", "0001-convert.patch", "net/dev.c", BEFORE, AFTER)
    (tmp_path / "patches/series").write_text("# ours\n\n0001-convert.patch  # -p1\n")
    return tmp_path / "patches"


def test_the_series_names_capabilities_and_changes_nothing(kernel: Path, patches: Path) -> None:
    patch(patches, "0002-more.patch", "net/dev.c", AFTER, AFTER.replace("x.h", "y.h"))
    (patches / "series").write_text("0001-convert.patch\n0002-more.patch\n")
    code, out, err = run("--json", "--series", patches / "series", kernel)
    found = json.loads(out)
    assert (code, err, found["series"]) == (0, "", True)
    assert [(call["line"], call["name"], call["kind"], call["capability"]) for call in found["calls"]] == [
        (5, "netdev-*", "prefixed", "CAP_NET_ADMIN"),
        (6, "*", "constructed", None),
    ]
    assert (kernel / "net/dev.c").read_text() == BEFORE and len(list(kernel.rglob("*"))) == 5


@pytest.mark.parametrize(("capability", "output"), [("CAP_NET_ADMIN", "CAP_NET_ADMIN"), ("0", "none (0)")])
def test_a_patched_tree_names_capabilities_without_the_series(tmp_path: Path, capability: str, output: str) -> None:
    top = tree(tmp_path, {"net/dev.c": AFTER.replace("CAP_NET_ADMIN", capability)})
    code, out, err = run("--no-series", top)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == f'net/dev.c:5: load: request_module_cap("netdev-%s"): prefixed netdev-* [{output}]'
    assert lines[1] == 'net/dev.c:6: load: request_module("%s"): constructed * [not covered]'
    assert lines[-2:] == ["not covered by the series: 1 of 2 calls", "  *: net/dev.c"]


def test_two_equal_calls_in_one_function_are_told_apart(tmp_path: Path) -> None:
    twice = BEFORE.replace('"%s"', '"netdev-%s"')
    patch(
        tmp_path / "p",
        "1.patch",
        "net/dev.c",
        twice,
        twice.replace("request_module(", 'request_module_cap(0, "netdev-", ', 1),
    )
    (tmp_path / "p/series").write_text("1.patch\n")
    _, out, _ = run("--json", "--series", tmp_path / "p/series", tree(tmp_path / "linux", {"net/dev.c": twice}))
    assert [call["capability"] for call in json.loads(out)["calls"]] == ["0", None]


def test_text_and_markdown_show_the_same_survey(kernel: Path, patches: Path) -> None:
    _, text, _ = run("--series", patches / "series", kernel)
    _, table, _ = run("--markdown", "--series", patches / "series", kernel)
    assert text.splitlines() == [
        'net/dev.c:5: load: request_module("netdev-%s"): prefixed netdev-* [CAP_NET_ADMIN]',
        'net/dev.c:6: load: request_module("%s"): constructed * [not covered]',
        "",
        "lines as in 2017: 4 in all, 0 constant, 2 with %, 2 else",
        "mentions: 4 in all, 2 call, 1 definition, 1 reference",
        "calls: 2 in all, 0 constant, 1 prefixed, 1 constructed",
        "not covered by the series: 1 of 2 calls",
        "  *: net/dev.c",
    ]
    lines = table.splitlines()
    assert lines[0] == "# request_module() in Linux 6.1.192"
    assert '| net/dev.c:5 | load | request_module | `"netdev-%s"` | `netdev-*` | CAP_NET_ADMIN |' in lines
    assert lines[-1] == "| `*` | net/dev.c |"


def test_the_output_has_no_control_characters(tmp_path: Path) -> None:
    _, out, err = run("--no-series", odd(tmp_path))
    assert not any(char in out + err for char in "\x1b\r")
    assert 'net/sp ace\n\\x1b.c:3: ask: request_module("odd-%d")' in out


def test_a_mention_that_is_not_understood_exits_with_1(tmp_path: Path) -> None:
    code, out, err = run("--no-series", tree(tmp_path, {"net/a\x1b.c": "enum { request_module };\n"}))
    output = "is in C that the parser does not understand; check it by hand"
    assert (code, err) == (1, f"survey: net/a\\x1b.c:1: 'request_module' {output}\n")
    assert "mentions: 3 in all, 1 definition, 1 reference, 1 not understood" in out


NO_TREE = "pass the top of a Linux tree"
REMEDY = "pass this kernel's series with --series, or use --no-series"
ERRORS = [
    ({}, ["{linux}/missing"], "{linux}/missing: not a kernel source tree, it lacks a Makefile with the kernel's VERSION; " + NO_TREE),
    ({}, ["{linux}/Makefile"], "{linux}/Makefile: not a kernel source tree, it lacks a Makefile with the kernel's VERSION; " + NO_TREE),
    ({}, ["{linux}/net"], "{linux}/net: not a kernel source tree, it lacks a Makefile with the kernel's VERSION; " + NO_TREE),
    ({"Makefile": "all:\n"}, ["{linux}"], "{linux}: not a kernel source tree, it lacks a Makefile with the kernel's VERSION; " + NO_TREE),
    ({"Makefile": "VERSION = 6\nPATCHLEVEL = x\n"}, ["{linux}"], "{linux}: not a kernel source tree, it lacks a Makefile with the kernel's VERSION; " + NO_TREE),
    ({"kernel/kmod.c": None}, ["{linux}"], "{linux}: not a kernel source tree, it lacks kernel/module/kmod.c or kernel/kmod.c; " + NO_TREE),
    ({}, ["--series", "missing", "{linux}"], "missing: No such file or directory; the survey would be incomplete"),
    ({}, ["--series", "{linux}", "{linux}"], "{linux}: Is a directory; the survey would be incomplete"),
    ({}, ["--series", "/dev/null", "{linux}"], f"/dev/null: the file lists no patch; {REMEDY}"),
    ({}, ["--series", "{linux}/net/dev.c", "{linux}"], "{linux}/net/static void load(const char *name): No such file or directory; the survey would be incomplete"),
    ({"net/dev.c": "other\n"}, ["--series", "{series}", "{linux}"], "{patches}/0001-convert.patch: the patch does not apply (1 out of 1 hunk FAILED -- saving rejects to file net/dev.c.rej); " + REMEDY),
    ({"net/dev.c": None}, ["--series", "{series}", "{linux}"], "{patches}/0001-convert.patch: the patch changes net/dev.c, which does not exist; " + REMEDY),
]  # fmt: skip


@pytest.mark.parametrize(("files", "arguments", "sentence"), ERRORS, ids=range(len(ERRORS)))
def test_a_wrong_tree_or_series_is_reported_in_one_sentence(
    files: Mapping[str, str | None], arguments: list[str], sentence: str, kernel: Path, patches: Path
) -> None:
    for name, text in files.items():
        (kernel / name).unlink()
        if text is not None:
            (kernel / name).write_text(text)
    given = [each.format(linux=kernel, series=patches / "series") for each in arguments]
    given = given if "--series" in given else ["--no-series", *given]
    assert run(*given) == (1, "", f"survey: {sentence.format(linux=kernel, patches=patches)}\n")


def test_the_first_series_that_applies_is_used(kernel: Path, patches: Path) -> None:
    patch(patches, "0001-other.patch", "net/dev.c", "other\n", "another\n")
    (patches / "series.other").write_text("0001-other.patch\n")
    assert applied(kernel, [patches / "series.other", patches / "series"]) == {"net/dev.c": AFTER.encode()}
    with pytest.raises(SurveyError) as raised:
        applied(kernel, [patches / "series.other"] * 2)
    assert str(raised.value) == f"{kernel}: none of 2 series applies; {REMEDY}"


def test_a_series_with_additional_calls_is_refused(kernel: Path, patches: Path) -> None:
    more = AFTER.replace("\n}", '\n\trequest_module_cap(0, "more-", "more-%d", 5);\n}')
    patch(patches, "0001-convert.patch", "net/dev.c", BEFORE, more)
    output = "and the tree does not; use a series for this kernel"
    assert run("--series", patches / "series", kernel) == (
        1, "", f"survey: net/dev.c: the series makes load() request 'more-5', {output}\n"
    )  # fmt: skip


def test_a_missing_patch_program_is_reported(kernel: Path, patches: Path) -> None:
    output = "survey: patch(1) is not installed; Debian's package patch has it\n"
    assert run("--series", patches / "series", kernel, path="/nowhere") == (1, "", output)


def test_an_unreadable_file_fails_the_survey(kernel: Path) -> None:
    """root can read every file but one whose read the kernel refuses."""
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'touch "$1/net/bad.c"; mount --bind /proc/self/mem "$1/net/bad.c"; shift; exec "$@"',
    ]
    environment = {**os.environ, "PYTHONPATH": str(TOP / "packaging/kernel")}
    survey_it = [sys.executable, "-B", "-m", "survey", "--no-series", kernel]
    done = subprocess.run([*command, "sh", kernel, *survey_it], capture_output=True, text=True, env=environment)
    output = "No such process; the survey would be incomplete"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"survey: {kernel}/net/bad.c: {output}\n")


def test_a_closed_pipe_causes_no_traceback(tmp_path: Path) -> None:
    top = tree(tmp_path, {"net/a.c": "".join(body(f'request_module("x-{n}-%d", n);') for n in range(3000))})
    command = [sys.executable, "-B", "-m", "survey", "--no-series", top]
    environment = {**os.environ, "PYTHONPATH": str(TOP / "packaging/kernel")}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert started.stdout is not None and started.stderr is not None
    started.stdout.readline()
    started.stdout.close()
    assert started.stderr.read() == b""
    assert started.wait() != 0


def test_make_survey_without_a_tree_names_the_missing_variable() -> None:
    done = subprocess.run(["make", "-s", "-o", "setup", "survey"], cwd=TOP, capture_output=True, text=True)
    assert done.returncode != 0
    assert (
        done.stderr.splitlines()[0]
        == "KERNEL_SRC is not set; run make survey KERNEL_SRC=DIR with the top of a Linux tree"
    )


def test_help_has_examples() -> None:
    code, out, _ = run("--help")
    assert code == 0 and out.count("make survey KERNEL_SRC=") == 3


def test_every_known_function_is_a_request_module_variant() -> None:
    assert all(re.fullmatch(r"\w*request_module\w*", name) for name in FORMATS)
    assert Call("a.c", 1, "f", "request_module", '"x"', "x").kind is Kind.CONSTANT
