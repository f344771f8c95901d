"""`router-r1 bench caller`: how fast, how careful with money and how steady the candidate callers are."""
