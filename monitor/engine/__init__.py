"""The vLLM plugin: the only importer of vllm. Each module says in which process it runs."""
