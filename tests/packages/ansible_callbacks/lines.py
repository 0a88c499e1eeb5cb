"""Print each of Ansible's results as a line of JSON. ansible-core has no such output."""

import json
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: lines
type: stdout
short_description: a line of JSON for each result
description: The task, and the result of its module.
"""


class CallbackModule(CallbackBase):
    """The callback that Ansible loads."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "lines"

    def _print(self, result: Any, failed: bool = False) -> None:
        print(json.dumps({"task": result.task_name, "failed": failed, "result": result._result}, default=str))

    def v2_runner_on_ok(self, result: Any) -> None:
        self._print(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._print(result, failed=not ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._print(result, failed=True)
