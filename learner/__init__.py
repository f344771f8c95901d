"""Learns from trajectories: advantages, losses, packing, the DeepSpeed gang, the sending half of weight sync."""
