"""Every event: the envelope, the types by stream, and how they are decoded."""
