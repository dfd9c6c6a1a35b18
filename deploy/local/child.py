"""Execution of a program that the kernel ends together with its parent.

    python -I -S child.py PARENT SIGNAL ACCOUNT PROGRAM ARGUMENTS...

PARENT is the process id of the supervisor; when it ends, however it ends, the
kernel sends the program SIGNAL (a number). ACCOUNT is the user to run as, or
`-`. A program of its own rather than a `preexec_fn`, which would run between
fork and exec of a process with threads, where little is safe.
"""

import ctypes
import os
import pwd
import sys

# linux/prctl.h, linux/securebits.h, linux/capability.h
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS = 1, 8, 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAP_VERSION_3, CAP_DAC_OVERRIDE = 0x20080522, 1


def main() -> None:
    parent, signal, account, *command = sys.argv[1:]
    if account != "-":
        become(account)
    if sys.platform == "linux":
        # Only now: the kernel forgets it when the user changes.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the parent has already ended")
    os.execv(command[0], command)  # noqa: S606  (no shell is wanted)


def become(account: str) -> None:
    """Change to another account, but keep root's access to directories.

    PostgreSQL refuses to run as root. Its programs and data may lie in a
    directory of mode 0700 (a checkout in /root), and changing the modes of
    the user's directories is not for us to do.
    """
    libc = ctypes.CDLL(None)
    entry = pwd.getpwnam(account)
    if sys.platform == "linux":
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        # access(2) ignores capabilities without it, and initdb asks access(2) for `postgres`.
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if sys.platform == "linux":
        header = (ctypes.c_uint32 * 2)(CAP_VERSION_3, 0)
        bit = 1 << CAP_DAC_OVERRIDE
        # effective, permitted, inheritable; each as a low and a high word
        libc.capset(header, (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0))
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


if __name__ == "__main__":
    main()
