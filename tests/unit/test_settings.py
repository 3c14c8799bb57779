"""Variables that are named as settings."""

from __future__ import annotations

from shared.settings import no_settings


def test_what_is_misspelt_is_told_of_with_what_may_be_meant() -> None:
    given = ("SKELDIR_MONTLY_CAP_CENTS", "skeldir_hourly_shutoff_cent", "SKELDIR_LUNCH", "SKELDIR_LOG_LEVEL", "PATH")
    assert no_settings(given) == [
        "SKELDIR_HOURLY_SHUTOFF_CENT is no setting: is SKELDIR_HOURLY_SHUTOFF_CENTS meant?",
        "SKELDIR_LUNCH is no setting",
        "SKELDIR_MONTLY_CAP_CENTS is no setting: is SKELDIR_MONTHLY_CAP_CENTS meant?",
    ]
    assert no_settings(["skeldir_log_level", "SKELDIR_OWNER_PID"]) == []
