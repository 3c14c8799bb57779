"""Texts at rest: prompts and answers, encrypted with a key of their tenant and user."""
