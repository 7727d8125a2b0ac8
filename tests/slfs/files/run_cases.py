"""`python -m tests.slfs.files.run_cases DIRECTORY UID`: each case in a directory of its own, as that user.

Prints a JSON object, case → what came of it.
"""

import json
import os
import sys

from tests.slfs.files import cases_contents, cases_paths, cases_privileges, cases_times
from tests.slfs.files.cases import cases

__all__ = ["cases", "cases_contents", "cases_paths", "cases_privileges", "cases_times"]


def main(directory: str, uid: int) -> None:
    os.chdir(directory)
    os.mkdir(f"cases-{uid}")
    os.chown(f"cases-{uid}", uid, uid)
    os.chdir(f"cases-{uid}")
    if uid:
        os.setgroups([uid + 1])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.umask(0o022)
    results = {}
    for name, function in cases.items():
        os.mkdir(name)
        os.chdir(name)
        try:
            results[name] = function()
        except OSError as error:
            results[name] = f"unexpected: {error}"
        os.chdir("..")
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
