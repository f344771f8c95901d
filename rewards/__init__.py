"""Judges what the policy wrote: transcript types, grammar, reward components and presets.

It may import only the standard library, and no other room.
"""
