"""Policy: decides each task, once, before any call. `decide.py` and `rules/` are pure; `partition.py` is the shell."""
