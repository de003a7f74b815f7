"""Control bench: who steers best for the same number of decisions, and for the same seconds of teaching."""
