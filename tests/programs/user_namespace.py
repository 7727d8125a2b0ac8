"""A user namespace of its own, as unshare(1) makes it with the options in CASE; what ids and rights are in it.

After the restore the program also does what only an owner of its other namespaces may.
"""

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

LINES = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
PLACE = os.path.abspath("place")


def leave() -> None:
    if CASE.count("inside") <= CASE.count("nested"):
        os.makedirs(PLACE, exist_ok=True)
        if "user" in CASE and "inside" not in CASE:  # not root's
            Path(PLACE).chmod(0o777)
            Path().chmod(0o777)
            for folder in Path.cwd().parents:
                if not folder.stat().st_mode & 1:
                    folder.chmod(0o711)
            os.setgroups([1234, 5678])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
        options = [one for one in CASE if one.startswith("-")]
        arguments = [sys.executable, "-S", "-P", *sys.argv, "inside"]
        os.execvp("unshare", ["unshare", *options, "--", *arguments])


def seen(thread: threading.Thread) -> dict[str, object]:
    status = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    )
    found: dict[str, object] = {name: status[name].split() for name in LINES}
    for name in ("uid_map", "gid_map", "setgroups"):
        found[name] = Path(f"/proc/self/{name}").read_text(encoding="ascii").split()
    return found | {
        "ids": os.getresuid() + os.getresgid(),
        "groups": os.getgroups(),
        "number": (os.getpid(), thread.native_id),
        "file": os.stat("mine").st_uid,
        "objects": objects() if "objects" in CASE else {},
    }


def use_rights() -> None:
    """Of who is root inside, in namespaces that belong to this one."""
    if "--mount" in CASE:
        expect("word", Path(f"{PLACE}/word").read_text(encoding="ascii"), "mine")
    if "--uts" in CASE:
        subprocess.run(["hostname", "another"], check=True)


def make_objects() -> None:
    libc = ctypes.CDLL(None)
    expect("memory", libc.shmget(77, 4096, 0o1640) >= 0, True)
    expect("semaphores", libc.semget(77, 3, 0o1604) >= 0, True)
    expect("messages", libc.msgget(77, 0o1600) >= 0, True)


def objects() -> dict[str, list[str]]:
    """Keys, numbers, modes and owners."""
    columns = {"shm": (0, 1, 2, 3, 7, 8, 9, 10), "sem": range(8), "msg": (0, 1, 2, 7, 8, 9, 10)}
    found = {}
    for name, wanted in columns.items():
        line = Path(f"/proc/sysvipc/{name}").read_text(encoding="ascii").splitlines()[1]
        found[name] = [line.split()[one] for one in wanted]
    return found


def inside() -> None:
    if "--mount" in CASE:
        subprocess.run(["mount", "-t", "tmpfs", "mine", PLACE], check=True)
        Path(f"{PLACE}/word").write_text("mine", encoding="ascii")
    Path("mine").touch()
    if "objects" in CASE:
        make_objects()
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]
    for one in threads:
        one.start()
    child = os.fork()
    if not child:
        wait_along()
        os._exit(0)
    before = seen(threads[0])
    wait_for_go()
    expect("ids and rights", seen(threads[0]), before)
    expect("child", os.waitpid(child, 0), (child, 0))
    use_rights()
    stop.set()
    for one in threads:
        one.join()


leave()
inside()
finish()
