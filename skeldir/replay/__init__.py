"""`skeldir replay`: recorded traffic decided again by policy's own deciders, under other limits. A pure core
(`recording`, `scenario`, `replaying`, `tally`) and a thin reader of the books (`reading`)."""
