"""`import roundhouse` is light, and its names are those that are documented."""

import json
import subprocess
import sys

import roundhouse

HEAVY = {
    "aiohttp",
    "msgspec",
    "yaml",
    "starlette",
    "uvicorn",
    "torch",
    "transformers",
    "xllamacpp",
    "numpy",
    "asyncio",
    "typer",
}


def test_importing_the_package_loads_no_backend_and_no_http_stack() -> None:
    code = "import json, sys, roundhouse; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    loaded = set(json.loads(subprocess.check_output([sys.executable, "-c", code])))
    assert loaded & HEAVY == set()


def test_every_documented_name_can_be_had() -> None:
    for name in roundhouse.__all__:
        assert getattr(roundhouse, name).__name__ == name
    assert set(roundhouse.__all__) <= set(dir(roundhouse))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(roundhouse, "Nope")


def test_the_library_names_load_no_backend_of_their_own() -> None:
    code = "import json, sys, roundhouse; roundhouse.LLMManager; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.check_output([sys.executable, "-c", code])))
    assert loaded & {"torch", "transformers", "xllamacpp", "starlette", "uvicorn", "typer"} == set()
