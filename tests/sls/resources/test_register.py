"""The register of resources, and the document made from it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from sls.resources import FILE_TYPES, PROCESS_STATES, THREAD_STATES

ROOT = Path(__file__).parents[3]


def test_document_is_up_to_date() -> None:
    script = ROOT / "scripts" / "list-resources.py"
    done = subprocess.run([sys.executable, script, "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "run scripts/list-resources.py"


def test_each_record_has_one_kind() -> None:
    kinds: tuple[Any, ...] = (*FILE_TYPES, *PROCESS_STATES, *THREAD_STATES)
    records = [kind.record for kind in kinds]
    assert len(set(records)) == len(records)
