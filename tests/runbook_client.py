"""Stands for a command in a runbook's shell: asks the test to run it. Standard library only: it starts in 20 ms."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    stream = connection.makefile("rw")
    asked = {"name": sys.argv[2], "arguments": sys.argv[3:], "environment": dict(os.environ), "cwd": os.getcwd()}
    stream.write(json.dumps(asked) + "\n")
    stream.flush()
    code, out, err = json.loads(stream.readline())
sys.stderr.write(err)
sys.stderr.flush()
try:
    sys.stdout.write(out)
    sys.stdout.flush()
except BrokenPipeError:
    os._exit(code)  # who reads it has seen enough
sys.exit(code)
