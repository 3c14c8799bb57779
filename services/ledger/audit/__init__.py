"""Reading all chains again, archived months among them: whether a row was changed, removed, put in or moved."""
