"""Benches of single parts: caller, learner, rollout, sync, scoring, start-up. cluster/benches holds those of runs."""
