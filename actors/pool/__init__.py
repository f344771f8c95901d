"""The candidate LLMs: their cards, and the caller that owns their endpoints."""
