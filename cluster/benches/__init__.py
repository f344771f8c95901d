"""Benches of whole runs. Nothing but the command line imports them."""
