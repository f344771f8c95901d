"""Rollout workers and the run's other actors: placed, started, watched and replaced. It decides nothing about learning."""
