"""Makes trajectories: the episode, the rollout worker and the candidate pool."""
