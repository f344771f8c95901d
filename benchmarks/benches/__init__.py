"""Benches of single parts: caller, learner, rollout, sync, scoring. Benches of whole runs are in cluster/benches."""
