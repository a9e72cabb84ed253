"""Attacks on a served model, named as in the literature, to rehearse what a thief would do."""
