"""Chaos: the whole system in real processes, under load, while a seeded nemesis breaks what it can; then the audit."""
