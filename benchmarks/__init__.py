"""Studies of how well the mark works, and measurements of what it costs; neither is part of the installed package."""
