"""`roundhouse doctor`: what this machine has, which backends answer, what would serve."""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of
from roundhouse.cli.state import state_told
from roundhouse.gateway.checks import TargetCheck, check_targets
from roundhouse.resources import hardware

__all__ = ["doctor"]

_EXTRAS = {"llamacpp": "xllamacpp", "huggingface": "transformers"}
_NEEDED_FLAGS = ("avx2", "fma", "f16c")


def doctor(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Look at the machine and at every target, and say what is wrong and what to do.

    Exit code 0 if the default route has a target that would serve, 1 if not.
    """
    settings = settings_of(config)
    cpu, missing = hardware.cpu(), _missing_flags()
    targets = asyncio.run(check_targets(settings))
    found: dict[str, Any] = {
        "roundhouse": _version("roundhouse"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cpu.cores,
        "memory_total_bytes": cpu.total_bytes,
        "memory_free_bytes": cpu.free_bytes,
        "gpus": [said for _, said in hardware.describe(hardware.gpus())],
        "missing_cpu_flags": missing,
        "extras": {extra: _version(package) for extra, package in _EXTRAS.items()},
        "config": settings.source,
        "state": state_told(settings),
        "targets": [target.as_dict() for target in targets],
    }
    if as_json:
        print_json(found)
    else:
        _show(found, targets)
    if not any(target.ok for target in targets):
        sys.exit(1)


def _show(found: dict[str, Any], targets: list[TargetCheck]) -> None:
    gib = 1 << 30
    print(f"roundhouse {found['roundhouse']}, Python {found['python']}, {found['system']}")
    print(f"processor: {found['cores']} cores" + _flags_said(found["missing_cpu_flags"]))
    print(f"memory: {found['memory_free_bytes'] / gib:.1f} of {found['memory_total_bytes'] / gib:.1f} GiB free")
    for gpu in found["gpus"]:
        print(f"GPU: {gpu}")
    for extra, installed in found["extras"].items():
        print(
            f"{extra}: " + (f"installed ({installed})" if installed else f'missing; pip install "roundhouse[{extra}]"')
        )
    print(f"configuration: {found['config']}")
    state = found["state"]
    print(f"state: {state['place']}: {state['detail']}" if state["ok"] else f"state: NO {state['detail']}")
    for target in targets:
        print(f"  {'ok ' if target.ok else 'NO '} {target.name} ({target.type}, {target.model}): {target.detail}")


def _flags_said(missing: list[str]) -> str:
    return f", without {', '.join(missing)}: llama.cpp's prebuilt wheel will not run" if missing else ""


def _missing_flags() -> list[str]:
    flags = hardware.cpu_flags()
    return [flag for flag in _NEEDED_FLAGS if flag not in flags] if flags and platform.machine() == "x86_64" else []


def _version(package: str) -> str:
    if package != "roundhouse" and importlib.util.find_spec(package) is None:
        return ""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
