"""A checkpoint as an OpenAI-compatible service, and `ask`. It trains nothing."""
