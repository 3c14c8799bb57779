"""Runs one server and stops it when its owner is gone, however that ended: the pipe on standard input closes then.

    python guardian.py USER_ID SIGNAL LOCK SYNCED COMMAND...

USER_ID is -1 to stay who we are. SIGNAL is what asks the server to stop. LOCK is the descriptor of a lock that is held
for as long as the server runs. SYNCED is a folder whose files are brought to the disk twice a second, or empty: for a
server that hands what it writes to the kernel at once and leaves the rest to others. Standard library only: it starts
in 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

GRACE_S = 10.0
LOOK_S = 0.5
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Exit with the server's code, or 0 when the owner went first."""
    user_id, stop_signal, lock = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    synced, command = sys.argv[4], sys.argv[5:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    who = {"user": user_id, "group": user_id, "extra_groups": []} if user_id >= 0 else {}
    libc, guardian = ctypes.CDLL(None), os.getpid()

    def stop_with_guardian() -> None:
        # Runs in the child after it has become USER_ID, which would undo this. We may be killed as well; elsewhere than
        # on Linux the owner sees to that by the lock.
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, stop_signal)
            if os.getppid() != guardian:
                os._exit(1)

    # What the server prints goes to our standard error, the log: our standard output says its process id, once.
    server = subprocess.Popen(  # type: ignore[call-overload]
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        pass_fds=(lock,),
        preexec_fn=stop_with_guardian,  # there are no threads here
        **who,
    )
    print(server.pid, flush=True)
    # The owner waits for the line above and then closes its end; nothing else may be written.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    while server.poll() is None:
        readable, _, _ = select.select([0], [], [], LOOK_S)
        if synced:
            sync(synced)
        if readable and not os.read(0, 1):
            server.send_signal(stop_signal)
            try:
                server.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()  # unreaped, it would still count as running for the next server on its files
            return 0
    return int(server.returncode)


def sync(folder: str) -> None:
    """Bring what was written to the files of a folder to the disk; whoever has them open writes on meanwhile."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return  # the server has not made it yet
    for name in names:
        try:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
        except FileNotFoundError:
            continue  # replaced by a newer one
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
