"""Studies of strength, error rates and stability, with the data sets they use; each writes a page or table of docs/."""
