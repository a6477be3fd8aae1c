"""Keeping quiet for a while."""

import logging
from contextlib import suppress

import pytest

from ela_yolo.util.quiet import quiet


@pytest.mark.parametrize("former", [logging.NOTSET, logging.INFO, logging.CRITICAL + 5])
def test_the_callers_setting_is_as_it_was(former):
    before = logging.root.manager.disable
    logging.disable(former)
    try:
        with suppress(RuntimeError), quiet(logging.WARNING):
            assert logging.root.manager.disable == max(former, logging.WARNING)
            raise RuntimeError
        assert logging.root.manager.disable == former
    finally:
        logging.disable(before)


def test_only_what_is_above_the_level_is_heard(caplog):
    logger = logging.getLogger("ela_yolo.test")
    with quiet(logging.INFO):
        logger.info("left out")
        logger.warning("heard")
    logger.error("heard too")
    assert caplog.messages == ["heard", "heard too"]
