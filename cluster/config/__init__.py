"""Settings of a run, and their loading from recipes. It imports neither torch nor Ray nor vLLM."""
