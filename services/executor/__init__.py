"""The executor: makes the calls that policy allowed, records each before it is made, and ends each task once."""
