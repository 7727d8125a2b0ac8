"""The register of kernel resources: one module each, named by the manual page's noun.

`ls` of this folder answers "where does X go?". A new resource is one module and one line in a tuple here; order is the
order in which restore runs within a stage, and in which file kinds are asked.
"""

from typing import Any, Final

from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    Content,
    ContentReader,
    FileRecord,
    FileType,
    Loss,
    Memo,
    MemorySource,
    OpenFile,
    Owner,
    Parting,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
    ThreadRecord,
    ThreadState,
    Writer,
)
from sls.resources.cgroup import Cgroup, CgroupRecord
from sls.resources.cgroup_namespace import CgroupNamespace, CgroupNamespaceRecord
from sls.resources.controlling_terminal import ControllingTerminal, ControllingTerminalRecord
from sls.resources.credentials import Credentials, CredentialsRecord
from sls.resources.device import Device, DeviceRecord
from sls.resources.epoll import Epoll, EpollRecord
from sls.resources.eventfd import Eventfd, EventfdRecord
from sls.resources.file_lock import FileLocks, FileLocksRecord
from sls.resources.file_owner import FileOwners, FileOwnersRecord
from sls.resources.inet.tcp import TcpSocket, TcpSocketRecord
from sls.resources.inet.udp import UdpSocket, UdpSocketRecord
from sls.resources.inotify import Inotify, InotifyRecord
from sls.resources.io_uring import IoUring, IoUringRecord
from sls.resources.ipc_namespace import IpcNamespace, IpcNamespaceRecord
from sls.resources.ldt import Ldt, LdtRecord
from sls.resources.memfd import Memfd, MemfdRecord
from sls.resources.memory import Memory, MemoryRecord, VmaKind, VmaRecord
from sls.resources.mount_namespace import MountNamespace, MountNamespaceRecord
from sls.resources.namespace_file import NamespaceFile, NamespaceFileRecord
from sls.resources.namespaces import Namespaces, NamespacesRecord
from sls.resources.net_namespace import NetNamespace, NetNamespaceRecord
from sls.resources.netlink_socket import NetlinkSocket, NetlinkSocketRecord
from sls.resources.numa import (
    MappingPolicies,
    MappingPoliciesRecord,
    NumaPolicy,
    NumaPolicyRecord,
)
from sls.resources.other_socket import OtherSocket, OtherSocketRecord
from sls.resources.packet_socket import PacketSocket, PacketSocketRecord
from sls.resources.pidfd import Pidfd, PidfdRecord
from sls.resources.ping_socket import PingSocket, PingSocketRecord
from sls.resources.pipe import Pipe, PipeRecord
from sls.resources.posix_queue import PosixQueueFile, PosixQueueRecord
from sls.resources.posix_timer import PosixTimers, PosixTimersRecord
from sls.resources.process import Process, ProcessStateRecord
from sls.resources.raw_socket import RawSocket, RawSocketRecord
from sls.resources.refused import Refused
from sls.resources.regular import ProcFile, ProcFileRecord, Regular, RegularRecord
from sls.resources.seccomp import Seccomp, SeccompRecord
from sls.resources.signalfd import Signalfd, SignalfdRecord
from sls.resources.signals import (
    SignalActions,
    SignalActionsRecord,
    ThreadSignals,
    ThreadSignalsRecord,
    signal_number,
)
from sls.resources.sysv_message import SysvQueues, SysvQueuesRecord
from sls.resources.sysv_semaphore import (
    SemaphoreUndo,
    SemaphoreUndoRecord,
    SysvSemaphores,
    SysvSemaphoresRecord,
)
from sls.resources.sysv_shm import SysvMemory, SysvMemoryRecord
from sls.resources.thread import (
    Thread,
    ThreadStateRecord,
    final_registers,
    resume_registers,
)
from sls.resources.time_namespace import TimeNamespace, TimeNamespaceRecord
from sls.resources.timerfd import Timerfd, TimerfdRecord
from sls.resources.timers import IntervalTimers, IntervalTimersRecord
from sls.resources.tty import (
    PtyMaster,
    PtyMasterRecord,
    Tty,
    TtyRecord,
)
from sls.resources.unix.socket import UnixSocket, UnixSocketRecord
from sls.resources.user_namespace import UserNamespace, UserNamespaceRecord
from sls.resources.uts_namespace import UtsNamespace, UtsNamespaceRecord

PROCESS_STATES: Final[tuple[ProcessState[Any], ...]] = (
    UserNamespace(),
    Namespaces(),
    MountNamespace(),
    TimeNamespace(),
    Cgroup(),
    Memory(),
    Ldt(),
    SignalActions(),
    FileOwners(),
    FileLocks(),
    ControllingTerminal(),
    Process(),
    IntervalTimers(),
    SysvMemory(),
    SysvSemaphores(),
    SemaphoreUndo(),
    SysvQueues(),
    PosixTimers(),
    MappingPolicies(),
)
THREAD_STATES: Final[tuple[ThreadState[Any], ...]] = (
    Thread(),
    ThreadSignals(),
    UtsNamespace(),
    IpcNamespace(),
    NetNamespace(),
    CgroupNamespace(),
    NumaPolicy(),
    Seccomp(),
    Credentials(),
)
FILE_TYPES: Final[tuple[FileType[Any], ...]] = (
    Refused(),
    Memfd(),
    ProcFile(),
    PosixQueueFile(),
    Regular(),
    Device(),
    PtyMaster(),
    Tty(),
    Pipe(),
    Eventfd(),
    Signalfd(),
    Timerfd(),
    Inotify(),
    IoUring(),
    Pidfd(),
    NamespaceFile(),
    TcpSocket(),
    UdpSocket(),
    UnixSocket(),
    NetlinkSocket(),
    RawSocket(),
    PingSocket(),
    PacketSocket(),
    OtherSocket(),  # behind every kind of socket
    Epoll(),  # last: what it watches is set up by then
)

AnyProcessRecord = (
    UserNamespaceRecord
    | NamespacesRecord
    | MountNamespaceRecord
    | TimeNamespaceRecord
    | CgroupRecord
    | MemoryRecord
    | LdtRecord
    | SignalActionsRecord
    | FileOwnersRecord
    | FileLocksRecord
    | ControllingTerminalRecord
    | ProcessStateRecord
    | IntervalTimersRecord
    | SysvMemoryRecord
    | SysvSemaphoresRecord
    | SemaphoreUndoRecord
    | SysvQueuesRecord
    | PosixTimersRecord
    | MappingPoliciesRecord
)
AnyThreadRecord = (
    ThreadStateRecord
    | ThreadSignalsRecord
    | UtsNamespaceRecord
    | IpcNamespaceRecord
    | NetNamespaceRecord
    | CgroupNamespaceRecord
    | NumaPolicyRecord
    | SeccompRecord
    | CredentialsRecord
)
AnyFileRecord = (
    RegularRecord
    | MemfdRecord
    | ProcFileRecord
    | PosixQueueRecord
    | DeviceRecord
    | PtyMasterRecord
    | TtyRecord
    | PipeRecord
    | EventfdRecord
    | SignalfdRecord
    | TimerfdRecord
    | InotifyRecord
    | IoUringRecord
    | PidfdRecord
    | NamespaceFileRecord
    | TcpSocketRecord
    | UdpSocketRecord
    | UnixSocketRecord
    | NetlinkSocketRecord
    | RawSocketRecord
    | PingSocketRecord
    | PacketSocketRecord
    | OtherSocketRecord
    | EpollRecord
)

__all__ = [
    "FILE_TYPES",
    "PROCESS_STATES",
    "THREAD_STATES",
    "AnyFileRecord",
    "AnyProcessRecord",
    "AnyThreadRecord",
    "CaptureContext",
    "CapturedProcess",
    "Content",
    "ContentReader",
    "CredentialsRecord",
    "FileRecord",
    "FileType",
    "Loss",
    "Memo",
    "MemoryRecord",
    "MemorySource",
    "NamespacesRecord",
    "OpenFile",
    "Owner",
    "Parting",
    "ProcessRecord",
    "ProcessState",
    "ProcessStateRecord",
    "Record",
    "RestoreContext",
    "RestoredProcess",
    "SignalActionsRecord",
    "Stage",
    "ThreadRecord",
    "ThreadSignalsRecord",
    "ThreadState",
    "ThreadStateRecord",
    "VmaKind",
    "VmaRecord",
    "Writer",
    "final_registers",
    "resume_registers",
    "signal_number",
]
