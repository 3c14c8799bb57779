"""Events to the outside: which message goes to which webhook, the queue in the books, and the sender."""
