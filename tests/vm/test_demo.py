"""`make demo` shows who was refused and who was served, on one screen."""

import subprocess
import sys

from tests.vm.cache import TOP


def test_the_demo_shows_each_verdict_and_its_effect_on_one_screen() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.vm.demo"], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [(requester.split()[0], request, verdict, loaded) for requester, request, verdict, _, loaded in rows] == [
        ("user", "AF_ALG", "denied", "af_alg: no"),
        ("root", "AF_ALG", "allowed", "af_alg: yes"),
        ("user", "SCTP", "denied", "sctp: no"),
        ("root", "SCTP", "allowed", "sctp: yes"),
        ("user", "a module marked in its .modinfo", "denied", "smp_marked: no"),
        ("root", "a module marked in its .modinfo", "allowed", "smp_marked: yes"),
    ]
    assert all(".toml:" in line or line.endswith("smp_marked.ko") for _, _, _, line, _ in rows), rows
    assert len(done.stdout.splitlines()) <= 24
