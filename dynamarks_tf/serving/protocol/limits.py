"""How much one request may hold."""

MOST_ROWS = 2**17
