"""After a loss of the log, or of the books: one filled again from the other."""
