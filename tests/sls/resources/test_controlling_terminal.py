"""Sessions on a terminal: who controls it, who is in the foreground, job control."""

from tests.sls.conftest import Kept


def test_x27_session_on_a_pty(kept: Kept) -> None:
    outcome = kept("pty.c", "plain")
    assert not outcome.losses
    assert not outcome.notes


def test_x27_interactive_shell(kept: Kept) -> None:
    assert not kept("shell.py").losses
