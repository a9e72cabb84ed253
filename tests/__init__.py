"""Tests of dynamarks_tf, in folders named as those of the package; `helpers` holds what several of them share."""
