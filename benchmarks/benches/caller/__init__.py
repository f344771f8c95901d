"""`router-r1 bench caller`: how fast, how careful with money and how robust the candidate callers are."""
