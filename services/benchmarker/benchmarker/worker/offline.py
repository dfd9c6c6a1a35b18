"""`python offline.py COMMAND ...`: runs a command whose process can open no connection.

For systems that let nobody have a network of his own, as most containers are: there the kernel
still lets every process give up what it may ask for. Refused is each socket that is not between
processes of this machine, for the command and all that it starts. Fails where that cannot be.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

# Of linux/{prctl,seccomp,audit,filter}.h.
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES
LOAD, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
# Where a call's number, its architecture and its first argument are, of little-endian machines.
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16
# By machine: what the kernel calls it, and the number of socket().
MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
# Another way to a socket; and from where on calls are those of a second interface, of x86 alone.
IO_URING_SETUP, X32 = 425, 0x40000000


def instructions(architecture: int, socket_call: int) -> list[tuple[int, int, int, int]]:
    """The kernel's program, each line with how many to skip if it is so and if it is not."""
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 0, 6, architecture),
        (LOAD, 0, 0, NUMBER),
        (IF_AT_LEAST, 4, 0, X32),
        (IF_EQUAL, 3, 0, IO_URING_SETUP),
        (IF_EQUAL, 0, 3, socket_call),
        (LOAD, 0, 0, ARGUMENT),
        (IF_EQUAL, 1, 0, int(socket.AF_UNIX)),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]


def seal() -> None:
    """Raises KeyError on another machine, OSError where the kernel does not do it."""
    lines = instructions(*MACHINES[platform.machine()])
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    header = struct.pack("HP", len(lines), ctypes.addressof(program))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong]
    for which, value, filters in (
        (PR_SET_NO_NEW_PRIVS, 1, None),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header),
    ):
        if prctl(which, value, filters, 0, 0):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter")


if __name__ == "__main__":
    seal()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  (a shell is not wanted)
