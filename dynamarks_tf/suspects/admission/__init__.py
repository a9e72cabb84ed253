"""What a suspect's file may hold: checked before any of it is loaded, in the process that loads it.

May import what the adapters may: `_support` and `errors`.
"""
