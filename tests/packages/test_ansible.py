"""Run the Ansible role against a root, with a program in place of ssh that enters the root.

Switching on needs a running kernel. So the tests prepare an image, and check the error of a machine without a kernel.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.vm.cache import TOP
from tests.vm.product import deb, in_root
from tests.vm.roots import root

ROLE = TOP / "packaging/ansible"
SPECS = ROLE / "roles/safe_modprobe/meta/argument_specs.yml"
POLICY = "etc/safe-modprobe/policy.d"
MARK = '[[mark]]\nmodules = ["tun"]\nprivileged = true\nreason = "no tunnels"\n'


def site(content: str, name: str = "10-site.toml") -> dict[str, str]:
    return {"name": name, "content": content}


FIRST = [site(MARK), {"name": "40-open-to-users.toml", "state": "masked"}]


@pytest.mark.parametrize("command", [["yamllint", "--strict", "."], ["ansible-lint", "--offline", "-q", "--nocolor"]])
def test_the_linters_find_nothing(command: list[str], tmp_path: Path) -> None:
    subprocess.run(
        ["cp", "-a", ROLE, tmp_path / "ansible"], check=True
    )  # The linters skip files that git ignores, so lint a copy outside of git.
    done = subprocess.run(command, cwd=tmp_path / "ansible", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_readmes_example_is_valid(tmp_path: Path) -> None:
    """Parse the README's inventory, and check the syntax of the playbook with it."""
    (tmp_path / "inventory.yml").write_text((ROLE / "README.md").read_text().split("```yaml\n")[1].split("```")[0])
    common = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True}
    output = subprocess.run(["ansible-inventory", "-i", "inventory.yml", "--list"], **common).stdout
    hosts = json.loads(output)["_meta"]["hostvars"]
    assert {name: each["safe_modprobe_mode"] for name, each in hosts.items()} == {
        "web1": "enforce", "web2": "enforce", "web3": "trial", "web4": "trial",
    }  # fmt: skip
    options = set(re.findall(r"^      (safe_modprobe_\w+):", SPECS.read_text(), re.M))
    assert {name for each in hosts.values() for name in each if name.startswith("safe_")} <= options
    subprocess.run(["ansible-playbook", "-i", "inventory.yml", "--syntax-check", ROLE / "site.yml"], **common)


class Ran(NamedTuple):
    failed: str
    """The JSON result of the failed task, or "" if all tasks succeeded."""

    changed: list[str]
    """The tasks that changed something."""

    facts: dict[str, Any]


class Fleet:
    """One machine: a root, and a program in place of ssh that enters it."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.folder = folder
        subprocess.run(["cp", "-a", root("fleet") / "tree", self.tree], check=True)
        ssh = folder / "ssh"
        enter = " ".join(f"'{word}'" for word in in_root(self.tree, self.tree / "srv", []))
        ssh.write_text(f'#!/bin/bash\nexec {enter} sh -c "${{@: -1}}"\n')
        ssh.chmod(0o755)
        (folder / "play.yml").write_text(
            "- hosts: all\n  gather_facts: false\n  roles: [safe_modprobe]\n"
            "  post_tasks:\n  - ansible.builtin.debug: {var: ansible_local.safe_modprobe}\n"
        )

    def run(self, *options: str, **variables: object) -> Ran:
        """Run the role with these options and variables."""
        variables = {
            "safe_modprobe_package_file": str(deb()),
            "ansible_python_interpreter": "/usr/bin/python3",
            **variables,
        }
        command = ["ansible-playbook", "-i", "machine,", "play.yml", "-e", json.dumps(variables), *options]
        environment = {
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "ansible_callbacks"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_REMOTE_TEMP": "/tmp/ansible",
            "ANSIBLE_ROLES_PATH": str(ROLE / "roles"),
            "ANSIBLE_SSH_ARGS": "",
            "ANSIBLE_SSH_EXECUTABLE": str(self.folder / "ssh"),
            "ANSIBLE_SSH_TRANSFER_METHOD": "piped",
            "ANSIBLE_STDOUT_CALLBACK": "lines",
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        seen = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"task"')]
        failed = [json.dumps(each["result"]) for each in seen if each["failed"]]
        assert (done.returncode == 0) == (failed == []) and seen, done.stdout + done.stderr
        changed = [each["task"].removeprefix("safe_modprobe : ") for each in seen if each["result"].get("changed")]
        return Ran("".join(failed), changed, seen[-1]["result"].get("ansible_local.safe_modprobe", {}))

    def files(self) -> dict[str, tuple[float, int]]:
        """Return (mtime, inode) of every file that a run could change, without those of apt, rpm and Ansible."""
        kept = (self.tree / name for name in ("etc", "usr", "var/cache/safe-modprobe", "var/lib"))
        paths = (path for top in kept for path in top.rglob("*"))
        return {str(path.relative_to(self.tree)): (path.lstat().st_mtime, path.lstat().st_ino) for path in paths}

    def unit_is_enabled(self) -> bool:
        return (self.tree / "etc/systemd/system/sysinit.target.wants/safe-modprobe.service").is_symlink()

    def starts_with_a_trial(self) -> bool:
        return (self.tree / "etc/safe-modprobe/trial").exists()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Return a machine in a trial, with the package and a policy. A dry run before changes nothing."""
    machine = Fleet(tmp_path_factory.mktemp("fleet"))
    before = machine.files()
    done = machine.run("--check", safe_modprobe_policy=FIRST)
    assert done.failed == "" and "Copy the package" in done.changed
    assert machine.files() == before
    done = machine.run(safe_modprobe_policy=FIRST)
    assert done.failed == "" and {"Install the .deb", "Copy the drop-ins"} <= set(done.changed)
    assert done.facts["state"] == "off" and "40-open-to-users.toml" not in str(done.facts["policy"]["files"])
    return machine


def test_the_role_installs_package_policy_and_trial(fleet: Fleet) -> None:
    ask = in_root(fleet.tree, fleet.tree / "srv", ["dpkg-query", "-W", "-f", "${db:Status-Status}", "safe-modprobe"])
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "installed"
    assert (fleet.tree / POLICY / "10-site.toml").read_text() == MARK
    assert (fleet.tree / POLICY / "40-open-to-users.toml").readlink() == Path("/dev/null")
    assert fleet.unit_is_enabled() and fleet.starts_with_a_trial()


def test_a_wrong_policy_is_refused_and_the_old_policy_stays(fleet: Fleet) -> None:
    before = fleet.files()
    done = fleet.run(safe_modprobe_policy=[site(MARK.replace("true", '"perhaps"'))])
    assert "privileged: 'perhaps' is not" in done.failed and done.changed == []
    assert (fleet.tree / POLICY / "10-site.toml").read_text() == MARK
    assert fleet.files() == before


OTHER = [site(MARK.replace("tun", "tap")), {"name": "40-open-to-users.toml", "content": "# all that it said\n"}]
GONE = [{"name": "40-open-to-users.toml", "state": "absent"}]
TO_OTHER = ["Copy the drop-ins", "Start boots without a trial"]
OFF = ["Start boots without a trial", "Enable or disable the unit that switches safe-modprobe on at boot"]

LIFE = [
    ("a second run", False, {"policy": FIRST}, [], True, True),
    ("a dry run", True, {"policy": OTHER, "mode": "enforce"}, TO_OTHER, True, True),
    ("enforced, another policy", False, {"policy": OTHER, "mode": "enforce"}, TO_OTHER, True, False),
    ("a trial again", False, {"policy": GONE}, ["Remove drop-ins", "Start every boot with a trial"], True, True),
    ("switched off", False, {"enabled": False}, OFF, False, False),
    # The role asks for the real status here, in a dry run as well.
    ("off and wanted so, dry", True, {"enabled": False, "image": False}, [], False, False),
    ("off and wanted so", False, {"enabled": False, "image": False}, [], False, False),
    ("to be switched on, dry", True, {"image": False}, [], False, False),
]
"""(step, is a dry run, the role's variables, tasks that change something, then enabled at boot, then in a trial)"""


def test_steps_in_the_life_of_a_machine(fleet: Fleet) -> None:
    """Each step starts from the state that the step before left."""
    for what, dry, variables, changed, at_boot, in_trial in LIFE:
        before = fleet.files()
        done = fleet.run(*["--check"] * dry, **{f"safe_modprobe_{key}": value for key, value in variables.items()})
        assert (done.failed, done.changed) == ("", changed), what
        assert (fleet.unit_is_enabled(), fleet.starts_with_a_trial()) == (at_boot, in_trial), what
        assert (fleet.files() == before) == (dry or not changed), what
        assert done.facts["state"] == "off", what
    assert [path.name for path in (fleet.tree / POLICY).iterdir()] == ["10-site.toml"]


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"safe_modprobe_mode": "of"}, "value of safe_modprobe_mode must be one of: trial, enforce, got: of"),
        ({"safe_modprobe_policy": [site(MARK, "../x.toml")]}, "'../x.toml' must be a name that ends in .toml"),
        ({"safe_modprobe_policy": [site(MARK, "10-site")]}, "'10-site' must be a name that ends in .toml"),
        (
            {"safe_modprobe_policy": [{"name": "1.toml"}]},
            "'1.toml' must be a name that ends in .toml, with content",
        ),
        ({"safe_modprobe_policy": [site(MARK) | {"stat": "absent"}]}, "stat. Supported parameters include"),
        ({"safe_modprobe_image": False}, "; nothing was changed; "),
    ],
)
def test_wrong_variables_are_refused(fleet: Fleet, variables: dict[str, object], why: str) -> None:
    before = fleet.files()
    done = fleet.run(**variables)
    assert why in done.failed and done.changed == []
    assert fleet.files() == before
