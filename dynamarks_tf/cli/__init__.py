"""The command `dynamarks`: each module turns the arguments of one command into one call of an importable function.

May import everything; nothing imports it.
"""
