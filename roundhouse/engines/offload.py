"""Whether a build of llama.cpp can put layers on a GPU; asked of the build itself, in a child, once."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys

__all__ = ["can_offload"]

log = logging.getLogger(__name__)
_LIMIT_S = 30.0
_ASK = "import xllamacpp; print(sum(one['type'].name.endswith('GPU') for one in xllamacpp.get_device_info()))"


@functools.cache
def can_offload(executable: str = "") -> bool:
    """For the built-in worker, or for the `llama-server` at `executable`; False if it cannot be asked.

    Takes as long as starting it; nothing of it stays in this process.
    """
    argv = [executable, "--list-devices"] if executable else [sys.executable, "-c", _ASK]
    try:
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s cannot be asked for its devices: %s", argv[0], error)
        return False
    if executable:  # "Available devices:", then one line for each
        return ended.returncode == 0 and any(
            line.startswith("  ") and ":" in line for line in ended.stdout.splitlines()
        )
    return ended.stdout.strip() not in ("", "0")
