"""Permanent loss of privileges, for a process and its children.

Any process may do so, in any container: the kernel refuses it the system calls by which it could
reach a network, another process or another namespace, and bounds how many processes it has.
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import socket
import struct
from pathlib import Path

# Constants from linux/{prctl,seccomp,audit,filter}.h.
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 4, 36, 37
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, ERROR = 0x7FFF0000, 0x00050000
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Ends of the filter. Libraries replace a call that the kernel lacks by an older one.
ENDS = {"refuse": ERROR | errno.EACCES, "lack": ERROR | errno.ENOSYS, "allow": ALLOW}
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: flags of clone(). Those of
# clone3() are in memory, where a filter cannot read them.
NAMESPACES = 0x00020000 | 0x7E000000
CLONE3 = 435
# Offsets of a call's number, its architecture and its first argument, on little-endian machines.
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16
# Calls beyond this number are those of a second interface, which x86 alone has.
X32 = 0x40000000
# io_uring_setup (another way to a socket), open_tree, move_mount, fsopen, fsmount, process_madvise,
# mount_setattr: the same number on all machines.
REFUSED_EVERYWHERE = (425, 428, 429, 430, 432, 440, 442)
# By machine: the kernel's name of it, socket(), clone(), and the refused calls: ptrace,
# process_vm_readv and _writev, pidfd_getfd, kcmp; unshare, setns, mount, umount2, pivot_root,
# chroot, open_by_handle_at; add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd,
# init_module, finit_module.
MACHINES = {
    "x86_64": (
        0xC000003E,
        41,
        56,
        (101, 310, 311, 438, 312, 272, 308, 165, 166, 155, 161, 304,
         248, 249, 250, 321, 298, 323, 175, 313),
    ),
    "aarch64": (
        0xC00000B7,
        198,
        220,
        (117, 270, 271, 438, 272, 97, 268, 40, 39, 41, 51, 265,
         217, 218, 219, 280, 241, 282, 105, 273),
    ),
}  # fmt: skip
# Processes and threads of a child; torch and its compiler have several for each core.
MAX_PROCESSES = 256 + 16 * (os.cpu_count() or 1)
# Address space that libraries reserve for threads and never touch; limits of memory count it too.
RESERVED_MIB = 2048

_prctl = ctypes.CDLL(None, use_errno=True).prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def available() -> bool:
    """Return whether this machine has a filter of system calls."""
    return platform.machine() in MACHINES


def hide() -> None:
    """Hide this process's memory and environment from other processes of its user.

    Root can still read both.
    """
    _prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def adopts_orphans() -> bool:
    """Return whether orphaned descendants become children of this process."""
    flag = ctypes.c_int()
    _prctl(PR_GET_CHILD_SUBREAPER, ctypes.addressof(flag), 0, 0, 0)
    return bool(flag.value)


def seal() -> None:
    """Drop privileges permanently. Raises OSError if the kernel rejects the filter."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    max_processes = _processes_of_this_user() + MAX_PROCESSES
    with contextlib.suppress(ValueError):  # the limit is lower already
        resource.setrlimit(resource.RLIMIT_NPROC, (max_processes, max_processes))
    if not available():
        return
    lines = instructions(*MACHINES[platform.machine()])
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    header = ctypes.create_string_buffer(struct.pack("HP", len(lines), ctypes.addressof(program)))
    for which, value, filters in (
        (PR_SET_NO_NEW_PRIVS, 1, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(header)),
    ):
        if _prctl(which, value, filters, 0, 0):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")


def instructions(
    architecture: int, socket_call: int, clone_call: int, refused: tuple[int, ...]
) -> list[tuple[int, int, int, int]]:
    """Return the BPF filter: operation, jumps if true and if false, and operand of each line.

    Sockets between processes of this machine are allowed, all others refused; processes and
    threads are allowed, but not in new namespaces.
    """
    lines: list[tuple[int, str, str, int]] = [
        (LOAD, "", "", ARCHITECTURE),
        (IF_EQUAL, "", "refuse", architecture),
        (LOAD, "", "", NUMBER),
        (IF_AT_LEAST, "refuse", "", X32),
        *((IF_EQUAL, "refuse", "", call) for call in (*refused, *REFUSED_EVERYWHERE)),
        (IF_EQUAL, "lack", "", CLONE3),
        (IF_EQUAL, "", "socket", clone_call),
        (LOAD, "", "", ARGUMENT),
        (IF_ANY_BIT, "refuse", "allow", NAMESPACES),
        (IF_EQUAL, "", "allow", socket_call),
        (LOAD, "", "", ARGUMENT),
        (IF_EQUAL, "allow", "refuse", int(socket.AF_UNIX)),
    ]
    places = {name: len(lines) + n for n, name in enumerate(ENDS)}
    places["socket"] = len(lines) - 3

    def jump(line: int, name: str) -> int:
        return places[name] - line - 1 if name else 0

    return [
        *(
            (what, jump(n, yes), jump(n, no), value)
            for n, (what, yes, no, value) in enumerate(lines)
        ),
        *((RETURN, 0, 0, value) for value in ENDS.values()),
    ]


def _processes_of_this_user() -> int:
    """Count the user's processes and threads, as the kernel's limit does."""
    count = 0
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if process.stat().st_uid == os.getuid():
                    count += sum(1 for _ in (process / "task").iterdir())
    return count
