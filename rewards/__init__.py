"""Judges what the policy wrote: transcript types, grammar, reward components and their presets."""
