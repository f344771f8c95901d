"""Learns from trajectories: advantages, losses, packing, the DeepSpeed gang, the sending half of weight sync.

Of the other rooms it may import only `rewards` and `actors`. It plays no episodes and calls no candidates.
"""
