"""The `skeldir` command, the embedded servers, and what starts and watches the services."""
