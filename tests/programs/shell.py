"""Row x27: an interactive bash on a pty whose master is held here, with a variable, a job and a pipeline."""

import os
import pty
import re

from tests.programs.protocol import expect, finish, wait_for_go

PROMPT = b"<prompt> "


def read_until(wanted: bytes) -> bytes:
    text = b""
    while not text.endswith(wanted):
        text += os.read(master, 4096)
    return text


def answer(line: str) -> list[str]:
    os.write(master, line.encode() + b"\n")
    text = read_until(PROMPT).removesuffix(PROMPT).decode()
    return [re.sub(r"\x1b\[\?2004[hl]\r?", "", one) for one in text.split("\r\n")][1:-1]


child, master = pty.fork()
if not child:
    os.environ["PS1"] = PROMPT.decode()
    os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
read_until(PROMPT)
answer("x=42; cd /usr; sleep 1000 &")
wait_for_go()
expect("variable and directory", answer("echo $x $PWD"), ["42 /usr"])
expect("job", ["Running" in line and "sleep 1000" in line for line in answer("jobs")], [True])
expect("pipeline", answer("printf 'b\\na\\n' | sort | tr '\\n' ' '; echo"), ["a b "])
os.write(master, b"cat\n")
read_until(b"cat\r\n")
os.write(master, b"typed\n")
read_until(b"typed\r\ntyped\r\n")
os.write(master, b"\x1a")
read_until(PROMPT)
expect("stopped by the terminal", ["Stopped" in answer("jobs")[-1]], [True])
answer("kill %1 %2; kill -CONT %2; wait")
os.write(master, b"exit 7\n")
expect("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 7)
finish()
