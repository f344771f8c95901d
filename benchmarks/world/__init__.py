"""A small world of invented facts and paid experts. A policy can learn to route in it on two CPU cores."""
