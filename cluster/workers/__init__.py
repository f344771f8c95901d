"""Rollout workers and the run's other actors: placed, started, watched, replaced. It decides nothing on learning."""
