"""modify_ldt(2), with settings of prctl(2) and /proc that are as rare."""

from tests.sls.conftest import Kept


def test_rare_settings_and_a_descriptor_table(kept: Kept) -> None:
    assert not kept("more_settings.c").notes
