"""An interactive bash on a pty at work: pipelines in the foreground, a job in the background, both checked.

Prints the number of each pipeline that has ended.
"""

import hashlib
import os
import pty
import sys
from itertools import count

from tests.programs.protocol import expect, finish, is_time_to_go

PROMPT = b"<prompt> "
LINES = 300


def read_until(wanted: bytes) -> bytes:
    text = b""
    while not text.endswith(wanted):
        text += os.read(master, 4096)
    return text


def answer(line: str) -> bytes:
    """What the shell says to a line, without the echo."""
    os.write(master, line.encode() + b"\n")
    return read_until(PROMPT).removesuffix(PROMPT).partition(b"\r\n")[2]


go = sys.argv[1]
child, master = pty.fork()
if not child:
    os.environ["PS1"] = PROMPT.decode()
    os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
read_until(PROMPT)
answer(f"cd '{os.path.dirname(go)}'; mkfifo lines; declare -A seen=([a]=1)")
answer("(n=0; while echo $((n++)); do sleep 0.01; done > lines) &")
print("ready", flush=True)
with open(f"{os.path.dirname(go)}/lines") as lines:
    for number in count(1):
        stages = f"for i in $(seq {LINES}); do echo $i; done | (sleep 0.05; tac) | tr 1 x | md5sum"
        text = "".join(f"{i}\n" for i in range(LINES, 0, -1)).replace("1", "x")
        wanted = hashlib.md5(text.encode()).hexdigest()
        expect("pipeline", answer(stages), f"{wanted}  -\r\n".encode())
        expect("line of the job", lines.readline(), f"{number - 1}\n")
        expect("variable", answer("((seen[a]++)); echo ${seen[a]}"), b"%d\r\n" % (number + 1))
        print(number, flush=True)
        if is_time_to_go():
            break
    expect("jobs", b"Running" in answer("jobs"), True)
    answer("kill %1; wait")
os.write(master, b"exit 7\n")
expect("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 7)
finish()
