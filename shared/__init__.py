"""What the services share: events, streams, state that every service folds, and the connections to the servers."""
