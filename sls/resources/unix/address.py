"""Names of unix(7) sockets: pathnames with or without a node on disk, abstract ones; bind(2) for each.

A name outlives its node: a socket keeps it after unlink(2), and an accepted socket has its listener's. Such a name is
bound by a child whose root is an empty tmpfs that is mounted nowhere, so that nothing appears or vanishes in the real
tree.
"""

import errno
import os
import socket
import stat

from sls import mounts, proc
from sls.child import run_apart
from sls.errors import RestoreConflictError
from sls.mount_tree import MountTree
from sls.resources.base import OpenFile, Record, RestoreContext
from sls.resources.socket_options import strerror
from sls.sock_diag import UnixState


class UnixNode(Record, frozen=True):
    """The socket's inode in the tree. `path` is absolute, as the restorer sees it."""

    path: bytes
    mode: int
    uid: int
    gid: int


class UnixName(Record, frozen=True):
    """`raw` as in sockaddr_un(7): empty, NUL and more, or a path, which may be relative to `directory`."""

    raw: bytes = b""
    directory: bytes = b"/"
    node: UnixNode | None = None
    mounts: bytes = (
        b""  # the link of the mount namespace that paths are of; empty for the restorer's
    )

    def describe(self) -> str:
        """As ss(8) shows it."""
        return self.raw.replace(b"\0", b"@").decode(errors="replace") or "(unnamed)"

    @property
    def is_path(self) -> bool:
        return bool(self.raw) and not self.raw.startswith(b"\0")


def raw_name(address: str | bytes) -> bytes:
    """From the form that Python's sockets give."""
    return os.fsencode(address)


def capture_name(file: OpenFile, state: UnixState) -> UnixName:
    """The name of the socket behind `file`."""
    if not state.name or state.name.startswith(b"\0"):
        return UnixName(raw=state.name)
    raw = state.name
    directory = proc.link(file.pid, "cwd")
    root = proc.link(file.pid, "root").rstrip(b"/")
    path = root + raw if raw.startswith(b"/") else os.path.join(directory, raw)
    tree = file.process.tree
    return UnixName(raw=raw, directory=directory, node=_node(tree, path, state), mounts=tree.link)


def _node(tree: MountTree, path: bytes, state: UnixState) -> UnixNode | None:
    """The node at `path` if it is this socket's: unlinked or replaced ones are not."""
    try:
        with tree.beside(path) as name:
            found = os.lstat(name)
    except OSError:
        return None
    if state.node is None or not stat.S_ISSOCK(found.st_mode):
        return None
    inode, device = state.node  # the kernel's own form of dev_t: 12 and 20 bits
    if (found.st_ino & 0xFFFFFFFF, found.st_dev) != (
        inode,
        os.makedev(device >> 20, device & 0xFFFFF),
    ):
        return None
    return UnixNode(path=path, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid)


def bind(ctx: RestoreContext, view: socket.socket, name: UnixName) -> bytes:
    """Bind the socket; returns an address that leads to it from here. RestoreConflictError names what is in the way."""
    try:
        if not name.is_path:
            view.bind(name.raw)
            return name.raw
        if name.node is None:
            return bind_without_node(ctx, view, name)
        with ctx.as_owner():
            return _bind_with_node(ctx, view, name, name.node)
    except OSError as error:
        advice = (
            "end the program that uses it"
            if error.errno == errno.EADDRINUSE
            else "make it possible"
        )
        raise RestoreConflictError(
            f"unix socket {name.describe()}: {strerror(error)}; {advice} and restore again",
            error.errno or errno.EADDRINUSE,
        ) from error


def _bind_with_node(
    ctx: RestoreContext, view: socket.socket, name: UnixName, node: UnixNode
) -> bytes:
    tree = ctx.trees[name.mounts]
    with tree.beside(node.path) as path:
        _unlink_stale(path, view.type)
    if name.raw == node.path and not tree.link:
        view.bind(name.raw)
    else:
        root = node.path.removesuffix(name.raw) if name.raw.startswith(b"/") else b""
        run_apart(lambda: _bind_from(tree, view, root, name))
    with tree.beside(node.path) as path:
        os.chmod(path, node.mode)
        os.chown(path, node.uid, node.gid)
        return _handle(ctx, path)


def _bind_from(tree: MountTree, view: socket.socket, root: bytes, name: UnixName) -> None:
    if root or tree.link:
        with tree.reach(root or b"/") as path:
            os.chroot(path)
    if not root:
        os.chdir(name.directory)
    view.bind(name.raw)


def _unlink_stale(path: bytes, kind: int) -> None:
    """A killed program leaves its node; connect(2) tells whether somebody is behind it."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EADDRINUSE, "there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (BlockingIOError, PermissionError):
            pass  # somebody is there, or it is of another type: bind(2) says so
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _handle(ctx: RestoreContext, path: bytes) -> bytes:
    return b"/proc/self/fd/%d" % ctx.opened(os.open(path, os.O_PATH | os.O_CLOEXEC))


def bind_without_node(ctx: RestoreContext, view: socket.socket, name: UnixName) -> bytes:
    """Give the socket a pathname that no directory shows; returns an address that leads to it from here."""
    place = ctx.opened(os.open("/", os.O_PATH | os.O_CLOEXEC))
    run_apart(lambda: _bind_hidden(view, name.raw, place))
    return b"/proc/self/fd/%d" % place


def _bind_hidden(view: socket.socket, raw: bytes, place: int) -> None:
    """In the child. A relative name may lead up: above the root there is the root."""
    mount = mounts.fresh(b"tmpfs", b"none", ())
    os.fchdir(mount)
    os.chroot(".")
    os.makedirs(os.path.dirname(raw) or b".", exist_ok=True)
    view.bind(raw)
    found = os.open(raw, os.O_PATH)
    os.dup2(found, place, inheritable=False)
    os.close(found)
    os.close(mount)
