"""The vLLM engine: sampling, sleeping weights, and new weights in flight. Nothing outside this room imports vLLM."""
