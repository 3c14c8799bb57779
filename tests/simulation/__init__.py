"""The whole system in one process: the real deciders and commits over a log in memory, on a virtual clock.

A seeded scheduler runs the actors one step at a time (a step ends at each place where the real service awaits the
server), and crashes, pauses, delays, repeats and reorders in between. After each step all invariants are checked.
The same seed gives the same history: `python -m tests.simulation --seed N`.
"""
