"""Ansible's results, a line of JSON each: ansible-core has no such output of its own."""

import json
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: lines
type: stdout
short_description: a line of JSON for each result
description: The task, and what the module said.
"""


class CallbackModule(CallbackBase):
    """What a test asks of it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "lines"

    def _say(self, result: Any, failed: bool = False) -> None:
        print(json.dumps({"task": result.task_name, "failed": failed, "result": result._result}, default=str))

    def v2_runner_on_ok(self, result: Any) -> None:
        self._say(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._say(result, failed=not ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._say(result, failed=True)
