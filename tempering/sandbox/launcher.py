"""What runs between us and an untrusted program: builds its small world, starts it in there, watches over it, and sweeps up after it.

Started as `python -I -S launcher.py FD` by `tempering.sandbox.run`, and stands alone: the standard library only. Three processes, one inside another:

1. the launcher makes the namespaces (a process cannot put itself into a new pid namespace, only its children);
2. the keeper is process 1 of that namespace: it mounts a root of its own, starts the program, adds up what all its descendants use, and ends;
   with it the kernel kills whatever is left. It keeps capabilities over the namespace, so a program of the same user cannot trace it;
3. the program, without capabilities or a way to gain any, behind resource limits and a filter of system calls.

`FD` is a socket to the parent: one line of JSON comes (what to run), one goes (how it ended). When the parent closes it or dies, the run ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

INSIDE = 65534
"""The only user and group that exist inside."""
TICK_MS = 25
"""How often what the program uses is added up."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives")
"""What is shown of the file system, read-only, beside the interpreter: programs and libraries, no data and no settings."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# Numbers of the kernel's interface, from its headers (include/uapi/linux).
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 8, 0x4000, 0x40000, 2
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH, O_CLOEXEC = 1, 0x8000, 0x1000, 0o2000000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 22, 36, 38

REFUSED = {
    # name: (x86_64, aarch64). What changes namespaces, mounts or the kernel, looks into other processes, or holds memory that no limit counts.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "bpf": (321, 280), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
}  # fmt: skip
CLONE, CLONE3 = (56, 220), 435
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, function: Any, *arguments: Any) -> int:
    """A C function's result; OSError that names what was tried where it fails."""
    found = function(*arguments)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return found


def text(path: str) -> ctypes.c_char_p:
    """A path for C."""
    return ctypes.c_char_p(os.fsencode(path))


def syscall(what: str, number: int, *arguments: Any) -> int:
    """A system call that libc has no function for."""
    return call(what, libc.syscall, ctypes.c_long(number), *arguments)


def mount(kind: str, place: str, flags: int, options: str = "") -> None:
    """A new file system at a place."""
    call(f"mount {kind}", libc.mount, text(kind), text(place), text(kind), ctypes.c_ulong(flags), text(options))


# --------------------------------------------------------------------------------------------------------------------------------- the program's root


def taken(path: str, flags: int) -> int:
    """A copy of what is mounted at a path, not yet anywhere, as a file descriptor."""
    tree = syscall("open_tree", OPEN_TREE, ctypes.c_int(-100), text(path), ctypes.c_uint(OPEN_TREE_CLONE | O_CLOEXEC | AT_RECURSIVE))
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", flags, 0, 0, 0))
    flags_at = ctypes.c_uint(AT_EMPTY_PATH | AT_RECURSIVE)
    syscall("mount_setattr", MOUNT_SETATTR, ctypes.c_int(tree), text(""), flags_at, attributes, ctypes.c_size_t(32))
    return tree


def build_root(prefixes: list[str], disk: int) -> None:
    """A root with programs and libraries read-only, a few devices, the namespace's own /proc, and /tmp in memory; the old one is let go."""
    call("mount", libc.mount, None, text("/"), None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    links = {path: os.readlink(path) for path in SYSTEM if os.path.islink(path)}
    shown = [path for path in SYSTEM if path not in links and os.path.exists(path)]
    shown += [path for path in prefixes if not any(f"{path}/".startswith(f"{other}/") for other in shown)]
    # Taken while we are still who we were: a folder on the way may be closed to the user inside.
    trees = {path: taken(path, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV) for path in shown}
    trees |= {path: taken(path, ATTR_NOSUID) for path in DEVICES if os.path.exists(path)}
    become_inside()
    root = "/tmp"
    mount("tmpfs", root, MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for path, tree in trees.items():
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.makedirs(root + path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.close(os.open(root + path, os.O_CREAT | os.O_WRONLY))
        syscall("move_mount", MOVE_MOUNT, ctypes.c_int(tree), text(""), ctypes.c_int(-100), text(root + path), ctypes.c_uint(4))
        os.close(tree)
    for path, target in links.items():
        os.symlink(target, root + path)
    for name in ("fd", "stdin", "stdout", "stderr"):
        os.symlink("/proc/self/fd" + {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}[name], f"{root}/dev/{name}")
    os.mkdir(root + "/proc")
    mount("proc", root + "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.mkdir(root + "/tmp")
    mount("tmpfs", root + "/tmp", MS_NOSUID | MS_NODEV, f"mode=700,size={disk},nr_inodes=10k")
    os.chdir(root)
    call("pivot_root", libc.pivot_root, text("."), text("."))
    call("umount", libc.umount2, text("."), ctypes.c_int(MNT_DETACH))
    os.chdir("/")
    # The root itself, which is small and empty, cannot be written to either.
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", ATTR_RDONLY, 0, 0, 0))
    syscall("mount_setattr", MOUNT_SETATTR, ctypes.c_int(-100), text("/"), ctypes.c_uint(0), attributes, ctypes.c_size_t(32))


def become_inside() -> None:
    """The user that the namespace knows. Capabilities over the namespace stay until the program is started."""
    with open("/proc/self/setgroups") as file:
        if file.read().strip() == "allow":
            os.setgroups([])
    os.setresgid(INSIDE, INSIDE, INSIDE)
    os.setresuid(INSIDE, INSIDE, INSIDE)


# ---------------------------------------------------------------------------------------------------------------------------------------- the program


def filtered() -> None:
    """System calls that no honest program needs fail with EPERM from here on, for this process and all it starts."""
    column, audit = MACHINES[platform.machine()]
    load, equal, at_least, masked, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, absent, kill = 0x7FFF0000, 0x50000 | 1, 0x50000 | 38, 0x80000000
    rules = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]
    rules += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # x86_64 has a second numbering, from there on
    for numbers in REFUSED.values():
        rules += [(equal, 0, 1, numbers[column]), (give, 0, 0, refuse)]
    # The flags of clone can be read here, those of clone3 cannot: where that one does not exist, C libraries take the other.
    rules += [(equal, 0, 1, CLONE3), (give, 0, 0, absent)]
    rules += [(equal, 0, 3, CLONE[column]), (load, 0, 0, 16), (masked, 0, 1, CLONE_NEWUSER), (give, 0, 0, refuse), (give, 0, 0, allow)]
    code = b"".join(struct.pack("HBBI", *rule) for rule in rules)
    instructions = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(rules), ctypes.addressof(instructions)))
    call("seccomp", libc.prctl, PR_SET_SECCOMP, ctypes.c_ulong(2), program, ctypes.c_ulong(0), ctypes.c_ulong(0))


def start(given: dict[str, Any], broken: int) -> NoReturn:
    """In a fresh child: take the limits on and become the program.

    Args:
        given: what to run.
        broken: written to where the program cannot be started.
    """
    folder, limits = given["folder"], given["limits"]
    try:
        os.setsid()
        for name in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(name, signal.SIG_DFL)
        os.dup2(os.open(f"{folder}/.stdin", os.O_RDONLY), 0)
        os.unlink(f"{folder}/.stdin")
        os.chdir(folder)
        if not given["namespaces"] and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(given["user"], given["user"], given["user"])
            os.setresuid(given["user"], given["user"], given["user"])
        seconds = max(1, -int(-limits["cpu"] // 1))
        most = {"AS": limits["memory"], "CPU": seconds, "FSIZE": limits["disk"], "NOFILE": limits["files"], "CORE": 0, "MEMLOCK": 0}
        most |= {"NPROC": limits["processes"] + given["beside"], "MSGQUEUE": 0}
        for name, value in most.items():
            kind = getattr(resource, f"RLIMIT_{name}")
            ceiling = resource.getrlimit(kind)[1]
            value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
            resource.setrlimit(kind, (value, value + 1 if name == "CPU" and ceiling == resource.RLIM_INFINITY else value))
        call("no_new_privs", libc.prctl, PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
        if platform.machine() in MACHINES:
            filtered()
        os.execve(given["argv"][0], given["argv"], given["environment"])
    except BaseException as error:
        os.write(broken, f"{given['argv'][0]}: {error}".encode())
    os._exit(127)


# -------------------------------------------------------------------------------------------------------------------------------------- keeping watch


def descendants() -> Iterator[tuple[int, list[str]]]:
    """Each living descendant and the fields of its /proc/PID/stat from the third on. Orphans are the keeper's children, so that none is missed."""
    found: dict[int, list[str]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    found[int(name)] = file.read().rpartition(")")[2].split()
            except OSError:
                continue
    family = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, fields in found.items() if int(fields[1]) in family and pid not in family}
        family |= more
        grown = bool(more)
    return ((pid, found[pid]) for pid in family if pid != os.getpid())


def sweep() -> None:
    """Kill every descendant until there is none, and collect them."""
    while True:
        for pid, _ in descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def keep(given: dict[str, Any], control: socket.socket) -> dict[str, Any]:
    """Build the world, run the program to its end or to a limit, and leave nothing running.

    Returns:
        {"status", "reason", "cpu", "peak"}, or {"broken": why it could not be started}.
    """
    folder, limits = given["folder"], given["limits"]
    if given["namespaces"]:
        build_root(given["prefixes"], limits["disk"])
    else:
        libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    for name, content in {**given["contents"], ".stdin": given["stdin"]}.items():
        with open(f"{folder}/{name}", "w", encoding="utf-8", errors="replace", newline="") as file:
            file.write(content)
    # What is not dumpable cannot be traced by its own user, and its files in /proc are root's.
    libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0)
    heard, broken = os.pipe()
    pid = os.fork()
    if pid == 0:
        start(given, broken)
    os.close(broken)
    said = os.read(heard, 4096).decode(errors="replace")
    if said:
        return {"broken": said}
    watched = select.poll()
    watched.register(os.pidfd_open(pid), select.POLLIN)
    watched.register(control, select.POLLIN)
    status, reason, peak, spent = None, "", 0, 0.0
    begun = checked = time.monotonic()
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    while status is None and not reason:
        ready = watched.poll(TICK_MS)
        now = time.monotonic()
        while True:
            try:
                ended, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not ended:
                break
            status = code if ended == pid else status
        if any(fd == control.fileno() for fd, _ in ready):
            reason = "stopped"
        if status is not None or now - checked < TICK_MS / 1000:
            continue
        checked = now
        family = [fields for _, fields in descendants()]
        own = os.times()
        spent = own.children_user + own.children_system + sum(sum(map(int, fields[11:15])) for fields in family) / tick
        peak = max(peak, used := sum(int(fields[21]) for fields in family) * page)
        if now - begun > limits["wall"]:
            reason = "wall"
        elif used > limits["memory"]:
            reason = "memory"
        elif spent > limits["cpu"]:
            reason = "cpu"
        elif sum(int(fields[17]) for fields in family) > limits["processes"]:
            reason = "processes"
    sweep()
    own, most = os.times(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    spent = max(spent, own.children_user + own.children_system)
    return {"status": status, "reason": reason, "cpu": spent, "peak": max(peak, most)}


def main() -> NoReturn:
    """Make the namespaces, let the keeper do its work in them, tell the parent."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    try:
        if sys.argv[2] == "namespaces":
            call("a user namespace", libc.unshare, ctypes.c_int(CLONE_NEWUSER))
        control.sendall(b"\n")  # the parent now says which user we are in there, and what to run
        line = control.makefile("rb").readline()
        if not line:
            os._exit(0)
        given = json.loads(line)
        if given["namespaces"]:
            kinds = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
            call("namespaces", libc.unshare, ctypes.c_int(kinds))
        pid = os.fork()
        if pid == 0:
            try:
                found = keep(given, control)
            except BaseException as error:
                found = {"broken": str(error)}
            control.sendall(json.dumps(found).encode() + b"\n")
            os._exit(0)
        os.waitpid(pid, 0)
        if not given["namespaces"]:
            sweep()
    except BaseException as error:
        with contextlib.suppress(OSError):
            control.sendall(json.dumps({"broken": str(error)}).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
