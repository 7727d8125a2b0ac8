"""vim on a pty: lines are typed and moved; for each number in argv[2:] a pause, until the file `go.NUMBER` is there.

Prints the number of each line that vim has shown. At the end one change is undone, the file is written and compared.
"""

import os
import pty
import sys
import time

from tests.programs.protocol import CASE, expect, finish

LINES = 20

go = sys.argv[1]
file = f"{go}.txt"
child, master = pty.fork()
if not child:
    os.environ["TERM"] = "xterm"
    os.execvp("vim", ["vim", "-N", "-u", "NONE", "-i", "NONE", "--not-a-term", file])


def type_until(keys: str, wanted: str) -> None:
    os.write(master, keys.encode())
    text = b""
    while wanted.encode() not in text:
        text += os.read(master, 4096)


def wait_for(path: str) -> None:
    for _ in range(60_000):
        if os.path.exists(path):
            return
        time.sleep(0.005)
    sys.exit("go never came")


type_until("", "[New")
print("ready", flush=True)
typed = 0
for number in CASE:
    for _ in range(LINES):
        typed += 1
        # above the first, then below it
        type_until(f"ggOline {typed}\x1bddp:echo 'typed' {typed}*7\r", f"typed {typed * 7}")
        print(typed, flush=True)
    wait_for(f"{go}.{number}")
type_until("ggdGu:echo 'undone' 6*7\r", "undone 42")
os.write(master, b":wq\r")
expect("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
with open(file) as text:
    lines = ["", *(f"line {one}" for one in range(typed, 0, -1)), ""]
    expect("lines", text.read().split("\n"), lines)
finish()
