"""Advantages and losses: arithmetic on tensors and groups. It knows no ranks, no engines and no files."""
