"""What is started is decided from values alone."""

from roundhouse.engines import launch
from roundhouse.engines.launch import Spawn, llamacpp


def _flags(spawn: Spawn) -> str:
    return " ".join(spawn.argv)


def test_the_worker_gets_its_settings_on_standard_input_and_nothing_on_its_command_line() -> None:
    spawn = llamacpp("/m.gguf", {"n_ctx": 4096, "cache_type_k": "q8_0"}, cores=6)
    assert spawn.argv[1:] == ("-m", "roundhouse.engines.llamacpp_worker")
    assert spawn.settings == {
        "model": "/m.gguf",
        "window": 4096,
        "n_threads": 6,
        "n_parallel": 4,
        "cache_ram_mib": 0,
        "cache_type_k": "q8_0",
    }


def test_what_is_set_wins_over_what_we_would_choose() -> None:
    spawn = llamacpp("/m.gguf", {"n_threads": 2, "cache_ram_mib": 64, "n_parallel": 1}, cores=6)
    assert spawn.settings is not None
    assert (spawn.settings["n_threads"], spawn.settings["cache_ram_mib"], spawn.slots) == (2, 64, 1)


def test_an_own_llama_server_gets_the_same_as_flags() -> None:
    options = {
        "n_ctx": 1000,
        "n_parallel": 2,
        "flash_attn": False,
        "use_mmap": False,
        "use_mlock": True,
        "kv_unified": False,
        "lora": ["a.gguf", "b.gguf"],
        "cache_type_k": "q8_0",
    }
    flags = _flags(llamacpp("/m.gguf", options, cores=3, executable="/bin/llama-server"))
    for expected in (
        "/bin/llama-server --model /m.gguf --host 127.0.0.1 --port {port} --ctx-size 2000",
        "--threads 3",
        "--parallel 2",
        "--flash-attn off",
        "--no-mmap",
        "--mlock",
        "--lora a.gguf --lora b.gguf",
        "--cache-type-k q8_0",
        "--cache-ram 0",
    ):
        assert expected in flags
    assert "--kv-unified" not in flags


def test_a_unified_cache_is_shared_not_multiplied() -> None:
    flags = _flags(llamacpp("/m", {"n_ctx": 1000, "n_parallel": 4, "kv_unified": True}, cores=1, executable="x"))
    assert "--ctx-size 1000" in flags
    assert "--kv-unified" in flags


def test_vllm_gets_its_options_as_flags_and_its_key_in_the_environment() -> None:
    options = {"max_model_len": 4096, "enforce_eager": True, "enable_prefix_caching": False, "lora": ["a=x"],
               "enable_sleep_mode": True, "structured_outputs_config": {"backend": "xgrammar"}}  # fmt: skip
    spawn = launch.vllm("folder", "m", options, executable="/opt/vllm", env={"A": "b"})
    line = " ".join(spawn.argv)
    assert line.startswith("/opt/vllm serve folder --served-model-name m --host 127.0.0.1 --port {port} ")
    assert "--max-model-len 4096 --enforce-eager --no-enable-prefix-caching --enable-lora --lora-modules a=x" in line
    assert '--structured-outputs-config {"backend": "xgrammar"}' in line
    assert spawn.env == {"VLLM_SERVER_DEV_MODE": "1", "A": "b"}
    assert (spawn.key_variable, spawn.slots) == ("VLLM_API_KEY", launch.VLLM_SLOTS)
