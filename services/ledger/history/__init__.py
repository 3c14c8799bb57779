"""Checking a history: invariants 1 to 6 from the events alone, in one pass whose memory is bounded by what is live.

order    the one sequence in which a partition's three streams are read
live     tasks, decisions and reservations that have not come to their end
orders   operators' orders: the switches and limits of each moment
checker  the fold: an entry in, findings out; each check stands in a file of its own
reading  the shell: a cursor over the books
"""
