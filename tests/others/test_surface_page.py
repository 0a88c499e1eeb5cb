"""`surface` as an administrator and an auditor see it: the command's output, and its page in a real browser.

The image has hostile names in every place that a name can come from: aliases, module files, reasons and paths.
"""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from safe_modprobe.admin.commands.main import main
from tests.tree.build import VERSION, Mod, build_tree
from tests.unit.child import ctl

TOP = Path(__file__).parents[2]
SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
MODULES = (
    Mod("af_alg", ("net-pf-38",)),
    Mod("plain", ("net-pf-98",)),
    Mod("scripted", (f"net-pf-{SCRIPT}",)),
    Mod("quoted", ("net-pf-\"'><svg onload=alert(1)>",)),
    Mod("templated", ("net-pf-{{7}}{%raw%}$x^2$",)),
    Mod("control", ("net-pf-\x01\x1b(B",)),
    Mod("long", ("net-pf-" + "w" * 48,)),
    Mod("base"),
    Mod("sch_up", ("net-sch-up",), depends=("base",)),
    Mod("ext9", ("fs-ext9",), info=(b"privileged=CAP_SYS_ADMIN",)),
    Mod("dummy", ("netdev-dummy",)),
    Mod("dm_x", ("dm-x",)),
)
POLICY = f"""
[settings]
mode = "marked"

[[mark]]
modules = ["af_alg"]
privileged = true
reason = '''{SCRIPT}<a href="https://example.org/">'''

[[mark]]
aliases = ["net-sch-*", "sch_*"]
privileged = "CAP_NET_ADMIN"
reason = "{"long" * 60}"

[[mark]]
modules = ["plain"]
privileged = false
reason = "\N{RIGHT-TO-LEFT OVERRIDE}é"
"""


def make_image(root: Path) -> Path:
    folder = build_tree(root, MODULES)
    # Give a file a name that cannot be a C symbol.
    shutil.copy(folder / "kernel/plain.ko", folder / "kernel" / f"{IMAGE.replace(' ', '')}.ko")
    subprocess.run(["depmod", "-b", root, VERSION], check=True, capture_output=True)
    drop_ins = root / "etc/safe-modprobe/policy.d"
    drop_ins.mkdir(parents=True, mode=0o755)
    (drop_ins / f"50-{IMAGE.replace('=', '')}.toml").write_text(POLICY)
    (drop_ins / "90-last.toml").write_text("")
    for path in (drop_ins, *drop_ins.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp(f"root-{IMAGE}"))


@pytest.fixture(scope="module")
def page_and_json(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The path of the page, and the JSON of the same run."""
    path = tmp_path_factory.mktemp("page") / "surface.html"
    done = ctl("surface", "--root", root, "--html", path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return path, json.loads(done.stdout)


def test_json_has_the_inspected_system_and_the_result(root: Path, page_and_json: tuple[Path, dict[str, Any]]) -> None:
    _, found = page_and_json
    folder = root / "etc/safe-modprobe/policy.d"
    files = [folder / name for name in sorted(os.listdir(folder))]
    assert (found["kernel"], found["folder"], found["running"]) == (VERSION, f"{root}/lib/modules/{VERSION}", False)
    assert found["policy"]["files"] == [
        {"path": str(path), "sha256": sha256(path.read_bytes()).hexdigest()} for path in files
    ]
    assert found["policy"]["sha256"] == sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["when"])
    assert {each["key"]: (each["before"], each["after"]) for each in found["callers"]} == {
        "user": (8, 7), "userns-root": (11, 7), "network-admin": (11, 10),
    }  # fmt: skip
    assert found["present"] == [{"module": "built_in", "state": "builtin", "reach": "userns"}]
    verdicts = {each["module"]: each["callers"] for each in found["modules"]}
    assert verdicts["base"]["userns-root"]["verdict"] == "deny"
    assert verdicts["base"]["network-admin"]["verdict"] == "allow"
    assert "dm_x" not in verdicts


def test_tables_of_classes_families_and_modules(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["surface", "--root", str(root), "--all"]) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == f"modules of {VERSION} that each caller can load: without the policy → with it"
    assert lines[1:6] == [
        "class: weakest caller Any user Root of a user namespace A network admin",
        "any user 8 → 7 8 → 7 8 → 7",
        "root of a user namespace 3 → 0 2 → 2",
        "a network admin 1 → 1",
        "all 8 → 7 11 → 7 11 → 10",
    ]
    assert "net-sch-* 2 → 0 2 → 2 net/sched/sch_api.c:1817" in lines
    assert lines[-1] == "not counted, because no policy can refuse them: 1 built in, 0 already loaded"
    assert not any(char in out for char in "\x01\x1b\N{RIGHT-TO-LEFT OVERRIDE}") and SCRIPT in out


SETTINGS = {
    "a line that makes matplotlib run TeX": b"text.usetex: True\n",
    "lines that change the bars' edges and the font": b"patch.force_edgecolor: True\nfont.size: 3\n",
    "bytes that are not text": b"\xff\n",
}
"""Contents of a hostile matplotlibrc."""


@pytest.mark.parametrize("what", SETTINGS)
def test_foreign_matplotlib_settings_are_ignored(
    root: Path, page_and_json: tuple[Path, dict[str, Any]], tmp_path: Path, what: str
) -> None:
    """Neither a matplotlibrc in the current folder, which other users may write, nor the environment has an effect."""
    (tmp_path / "matplotlibrc").write_bytes(SETTINGS[what])
    environment = "import os; os.environ |= {'MPLBACKEND': 'nonsense', 'MATPLOTLIBRC': 'matplotlibrc'}"
    done = ctl("surface", "--root", root, "--html", "page.html", before=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    bars = [
        re.findall("<svg.*?</svg>", path.read_text(), re.DOTALL) for path in (page_and_json[0], tmp_path / "page.html")
    ]
    assert bars[0] == bars[1] != []


WRONG: list[tuple[list[str], str]] = [
    (["--json", "--html", "-"], "--html: --json writes to standard output already; give --html a file"),
    (["--html", "/dev/full"], "/dev/full: No space left on device"),
    (["--html", "/nowhere/x.html"], "/nowhere/x.html: No such file or directory"),
    (["--root", "/nowhere"], "--root: /nowhere: no such folder; give the root folder of a system"),
    (["--kernel", "9.9"], "{root}/lib/modules/9.9/modules.dep: no such file; check --root and --kernel, or run"
     " depmod to index the modules"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error"), WRONG)
def test_an_error_is_one_sentence(
    root: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["surface", *([] if "--root" in arguments else ["--root", str(root)]), *arguments]) == 1
    assert capsys.readouterr() == ("", f"safe-modprobectl: {error.format(root=root)}\n")


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_an_error_only_for_the_page(root: Path, tmp_path: Path, library: str) -> None:
    """Without jinja2 or matplotlib there is no page, but all other output works."""
    gone = f"sys.modules[{library!r}] = None"
    done = ctl("surface", "--root", root, "--html", tmp_path / "x.html", before=gone)
    message = f"the Python module {library} is missing; install it (Debian package python3-{library})"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"safe-modprobectl: {message}\n")
    assert not (tmp_path / "x.html").exists()
    assert ctl("surface", "--root", root, before=gone).returncode == 0


def test_a_trial_and_the_built_in_policy_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_tree(tmp_path, MODULES[:1])
    assert main(["surface", "--root", str(tmp_path)]) == 0
    assert (
        "policy: built-in, because no drop-in is installed; mode privileged, mismatch deny" in capsys.readouterr().out
    )
    assert main(["surface", "--root", str(tmp_path), "--html", "-"]) == 0
    assert (
        "<p>No drop-in is installed, so the built-in policy is in force: every module needs privilege.</p>"
        in capsys.readouterr().out
    )
    (tmp_path / "run/safe-modprobe/policy.d").mkdir(parents=True, mode=0o755)
    (tmp_path / "run/safe-modprobe/policy.d/00-trial.toml").write_text("[settings]\ntrial = true\n")
    assert main(["surface", "--root", str(tmp_path)]) == 0
    assert (
        "trial: nothing is refused; modules that would be refused are recorded, and count here as loaded"
        in capsys.readouterr().out
    )
    assert main(["surface", "--root", str(tmp_path), "--html", "-"]) == 0
    assert 'id="trial"' in capsys.readouterr().out


def test_the_page_has_no_outside_address_and_no_script(page_and_json: tuple[Path, dict[str, Any]]) -> None:
    """Check the HTML itself, without a browser. Its Content-Security-Policy forbids both as well."""
    text = page_and_json[0].read_text()
    tags = re.findall(r"<[a-zA-Z!][^>]*>", text)
    addresses = [
        each for tag in tags for each in re.findall(r'\b(?:href|src|action|data|poster|srcset)="([^"]*)"', tag)
    ]
    assert addresses == ["#policy"]
    assert not re.search(r"<(script|img|iframe|object|embed|link|base|form|audio|video|foreignObject)\b", text)
    assert not [tag for tag in tags if re.search(r"\bon[a-z]+=", tag)]
    assert "url(" not in text and "@import" not in text and "xmlns" not in text
    assert (
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';"
        " base-uri 'none'; form-action 'none'\">"
    ) in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


class Browser:
    """Chromium with a new profile. It logs its network requests and its console messages."""

    def __init__(self, profile: Path) -> None:
        options = Options()
        options.binary_location = "/usr/bin/chromium"
        for name in """headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking
                disable-component-update disable-sync""".split():
            options.add_argument(f"--{name}")
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))

    def open(self, page: Path, width: int = 1280, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(page.as_uri())

    def js(self, code: str, *values: object) -> Any:
        return self.driver.execute_script(code, *values)

    def requests(self) -> list[str]:
        """Return the addresses that the browser requested since the last call."""
        messages = [json.loads(line["message"])["message"] for line in self.driver.get_log("performance")]
        return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.driver.quit()


NUMBERS = """
const number = (cell, when) => Number(cell.querySelector(`[data-when=${when}]`).textContent);
const pair = (cell) => [number(cell, "before"), number(cell, "after")];
const rows = (selector, key) => Object.fromEntries([...document.querySelectorAll(selector)].map((cell) => [key(cell), pair(cell)]));
return {
  cards: Object.fromEntries([...document.querySelectorAll(".card .numbers")].map(
    (card) => [card.querySelector("[data-card]").dataset.card, pair(card)])),
  classes: rows("#classes td.n", (cell) => cell.dataset.caller + " " + cell.dataset.class),
  families: rows("#families td.n[data-caller]", (cell) => cell.dataset.caller + " " + cell.dataset.family),
  modules: Object.fromEntries([...document.querySelectorAll("#modules tbody")].map(
    (body) => [body.dataset.module, Object.fromEntries([...body.rows].flatMap((row) => row.dataset.callers.split(" ").map(
      (key) => [key, row.querySelector(".allow, .log, .deny").className])))])),
  open: Object.fromEntries([...document.querySelectorAll(".open")].map((list) => [list.dataset.caller,
    [...list.querySelectorAll("strong")].reduce((sum, each) => sum + Number(each.textContent), 0)])),
  charts: [...document.querySelectorAll("svg")].map((svg) => [...svg.querySelectorAll("text")].map((text) => text.textContent.trim())),
};
"""


def test_the_page_shows_the_numbers_of_the_json(browser: Browser, page_and_json: tuple[Path, dict[str, Any]]) -> None:
    page, found = page_and_json
    browser.open(page)
    seen = browser.js(NUMBERS)
    callers = found["callers"]
    totals = {each["key"]: [each["before"], each["after"]] for each in callers}
    assert seen["cards"] == totals
    assert seen["classes"] == {
        **{
            f"{each['key']} {one['class']}": [one["before"], one["after"]]
            for each in callers
            for one in each["classes"]
        },
        **{f"{key} all": numbers for key, numbers in totals.items()},
    }
    assert seen["families"] == {
        f"{key} {each['family']}": [tally["before"], tally["after"]]
        for each in found["families"]
        for key, tally in each["callers"].items()
    }
    assert seen["modules"] == {
        each["module"]: {key: judged["verdict"] for key, judged in each["callers"].items()} for each in found["modules"]
    }
    assert seen["open"]["user"] == totals["user"][1]
    names, numbers = zip(*((each["title"], f"{each['before']} → {each['after']}") for each in callers), strict=True)
    assert set(seen["charts"][0]) == {*names, *numbers}
    in_chart = [each for each in found["families"] if "userns-root" in each["callers"]]
    assert len(seen["charts"][1]) == 2 * len(in_chart) > 0
    for key in ("kernel", "tool"):
        assert browser.js(f"return document.getElementById('{key}').textContent") == found[key]
    assert browser.js("return document.getElementById('digest').textContent") == found["policy"]["sha256"]
    assert browser.js("return document.getElementById('when').dateTime") == found["when"]


def test_the_page_requests_nothing_and_logs_nothing(
    browser: Browser, page_and_json: tuple[Path, dict[str, Any]]
) -> None:
    """The console stays empty, and the page itself is the only request. A spoilt page shows that the logs work."""
    page = page_and_json[0]
    browser.requests()
    browser.driver.get_log("browser")
    browser.open(page)
    browser.js("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.requests() == [page.as_uri()]
    assert browser.driver.get_log("browser") == []
    # The Content-Security-Policy blocks an injected script and an image, and the browser logs both.
    spoilt = page.with_name("spoilt.html")
    spoilt.write_text(page.read_text().replace("</body>", "<script>window.ran = 1</script><img src='x.png'></body>"))
    browser.open(spoilt)
    assert browser.js("return window.ran") is None
    assert len(browser.driver.get_log("browser")) == 2


def test_hostile_names_are_shown_as_text(browser: Browser, page_and_json: tuple[Path, dict[str, Any]]) -> None:
    browser.open(page_and_json[0])
    assert browser.js("return document.querySelectorAll('script, img, iframe, object, a[href^=http]').length") == 0
    assert browser.js("return document.querySelectorAll('svg').length") == 2
    body = browser.js(
        "document.querySelectorAll('details').forEach((each) => { each.open = true; }); return document.body.innerText"
    )
    for text in (
        f"net-pf-{SCRIPT}", f'{SCRIPT}<a href="https://example.org/">', "net-pf-\"'><svg onload=alert(1)>",
        "net-pf-{{7}}{%raw%}$x^2$", "net-pf-\\x01\\x1b(B", "\\xe2\\x80\\xaeé", IMAGE.replace(" ", ""),
    ):  # fmt: skip
        assert text in body, text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in body


WIDTHS = [(320, False), (390, True), (768, False), (1280, True), (1920, False)]


@pytest.mark.parametrize(("width", "dark"), WIDTHS)
def test_nothing_overflows(
    browser: Browser, page_and_json: tuple[Path, dict[str, Any]], width: int, dark: bool
) -> None:
    """Tables scroll sideways within their own frame, the page itself does not, and no text is cut."""
    browser.open(page_and_json[0], width, dark)
    browser.js("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.js("return document.documentElement.scrollWidth") <= width
    outside = """
        const wide = document.documentElement.clientWidth + 0.5;
        return [...document.querySelectorAll("body *")].filter((each) =>
            !each.closest(".scroll") && each.getBoundingClientRect().right > wide).map((each) => each.outerHTML.slice(0, 80));
    """
    assert browser.js(outside) == []
    cut = """
        return [...document.querySelectorAll("svg")].flatMap((svg) => {
            const frame = svg.getBoundingClientRect();
            return [...svg.querySelectorAll("text")].filter((text) => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1;
            }).map((text) => text.textContent);
        });
    """
    assert browser.js(cut) == []


CONTRAST = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const light = (colour) => {
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((each) => each / 255)
    .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = getComputedStyle(each).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") return colour;
  }
};
return [...document.querySelectorAll("body *")].filter((each) =>
  [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) && each.tagName !== "TITLE" && each.tagName !== "desc" && each.tagName !== "title"
).map((each) => {
  const style = getComputedStyle(each);
  const [one, other] = [light(each instanceof SVGElement ? style.fill : style.color), light(behind(each))].sort((a, b) => b - a);
  return [(one + 0.05) / (other + 0.05), each.outerHTML.slice(0, 80)];
}).sort((a, b) => a[0] - b[0])[0];
"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_enough_contrast(
    browser: Browser, page_and_json: tuple[Path, dict[str, Any]], dark: bool
) -> None:
    """WCAG 2 asks for a contrast ratio of 4.5. The test covers light and dark mode, and the text of the charts."""
    browser.open(page_and_json[0], 1280, dark)
    ratio, where = browser.js(CONTRAST)
    assert ratio >= 4.5, where


def test_charts_have_titles_and_descriptions(browser: Browser, page_and_json: tuple[Path, dict[str, Any]]) -> None:
    browser.open(page_and_json[0])
    named = browser.js(
        """return [...document.querySelectorAll("svg")].map((svg) => [svg.getAttribute("role"),
        svg.getAttribute("aria-labelledby").split(" ").map((id) => document.getElementById(id).textContent)])"""
    )
    assert [role for role, _ in named] == ["img", "img"]
    assert named[0][1] == [
        "Modules that can be loaded, by caller",
        "Any user: 8 without the policy, 7 with it; Root of a user namespace: 11 without the policy, 7 with it;"
        " A network admin: 11 without the policy, 10 with it",
    ]
    assert named[1][1][0] == "Modules that each family of requests can load"


def test_charts_use_only_the_colours_of_the_page(page_and_json: tuple[Path, dict[str, Any]]) -> None:
    """A fixed black on white would stay so in dark mode."""
    charts = re.findall(r"<svg.*?</svg>", page_and_json[0].read_text(), re.DOTALL)
    colours = {each for chart in charts for each in re.findall(r"(?:fill|stroke): ?([^;\"]+)", chart)}
    assert colours == {"var(--before)", "var(--after)", "var(--ink)"}


def test_the_page_can_be_printed(browser: Browser, page_and_json: tuple[Path, dict[str, Any]]) -> None:
    """In print, tables have no scroll bar that hides a part of them."""
    browser.open(page_and_json[0])
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    frames = "return [...document.querySelectorAll('.scroll')].map((each) => getComputedStyle(each).overflowX)"
    assert set(browser.js(frames)) == {"visible"}
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF-")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
