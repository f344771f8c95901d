"""Plays question sets with a policy and with baselines, and sums them up. It trains nothing."""
