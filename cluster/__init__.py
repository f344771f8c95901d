"""Runs the other rooms: configuration, command line, placement, the training loop, tracking, serving.

No other room may import it, and it computes no reward, advantage or loss itself.
"""
