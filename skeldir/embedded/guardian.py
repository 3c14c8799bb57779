"""Runs one server and stops it when its owner is gone, however that ended: the pipe on standard input closes then.

    python guardian.py USER_ID SIGNAL COMMAND...

USER_ID is -1 to stay who we are. SIGNAL is what asks the server to stop. Standard library only: it starts in 20 ms.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

GRACE_S = 10.0
LOOK_S = 0.5


def main() -> int:
    """Exit with the server's code, or 0 when the owner went first."""
    user_id, stop_signal, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    who = {"user": user_id, "group": user_id, "extra_groups": []} if user_id >= 0 else {}
    # What the server prints goes to our standard error, the log: our standard output says its process id, once.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, **who)  # type: ignore[call-overload]
    print(server.pid, flush=True)
    # The owner waits for the line above and then closes its end; nothing else may be written.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    while server.poll() is None:
        readable, _, _ = select.select([0], [], [], LOOK_S)
        if readable and not os.read(0, 1):
            server.send_signal(stop_signal)
            try:
                server.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                server.kill()
            return 0
    return int(server.returncode)


if __name__ == "__main__":
    sys.exit(main())
