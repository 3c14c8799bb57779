"""The operators' console: a web page over the read API, with logins, a live stream, and orders."""
