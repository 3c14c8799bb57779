"""What Skeldir is made of besides its own code: what is pinned, its licences, and a list for others to read."""
