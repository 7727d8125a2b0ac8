"""A program for which no signal may be queued (RLIMIT_SIGPENDING): signals come, but without what is told with them."""

import os
import resource
import signal

from tests.programs.protocol import expect, finish, wait_for_go

resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
came: list[int] = []
signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
wait_for_go()
expect("limit", resource.getrlimit(resource.RLIMIT_SIGPENDING), (0, 0))
expect("pending", signal.sigpending(), {signal.SIGUSR1})
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
expect("came", came, [signal.SIGUSR1])
finish()
