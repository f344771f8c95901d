"""Makes trajectories: the episode, the rollout worker and the candidate pool.

Of the other rooms this one may import only `rewards`. It trains nothing.
"""
