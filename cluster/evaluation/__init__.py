"""Plays question sets with a policy and with baselines, and summarises the results. Nothing here trains."""
