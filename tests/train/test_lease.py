"""Locks in buckets: held by one process, and taken over from one that died."""

import threading
import time

import pytest

from miue_jax.data import bucket
from miue_jax.train import lease


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(lease, "SECONDS", 2.0)


def test_a_lock_is_held_by_one(remote, brief, caplog):
    with lease.hold(remote / ".lock") as held:
        assert lease.holder(remote / ".lock") == held.owner
        with (
            pytest.raises(lease.Held, match=f"working in {remote}: process"),
            lease.hold(remote / ".lock"),
        ):
            pass
        held.keep()
    assert lease.holder(remote / ".lock") is None
    # The next one need not wait.
    caplog.clear()
    with caplog.at_level("INFO"), lease.hold(remote / ".lock") as after:
        assert after.number > held.number
    assert "waiting" not in caplog.text
    assert len(bucket.listing(remote)) == 1


def test_a_lock_for_nothing_leaves_nothing(remote):
    with lease.hold(remote / ".lock") as held:
        held.remains = False
    assert bucket.listing(remote) == {}


def test_the_lock_of_a_dead_process_is_taken_over(remote, brief, caplog):
    dead = lease._take(remote / ".lock")  # renews no more
    with caplog.at_level("INFO"), lease.hold(remote / ".lock") as held:
        assert f"waiting for the lock of {remote}" in caplog.text
        # It lives after all, and finds out before it writes.
        dead.renewed -= 10
        with pytest.raises(lease.Held, match="another process took over"):
            dead.keep()
        dead.give_back()
        held.renew()
        held.keep()


def test_a_lock_is_renewed_while_its_holder_works(remote, brief):
    with lease.hold(remote / ".lock") as held:
        first = held.number
        while held.number < first + 2:
            time.sleep(0.1)
        assert lease.holder(remote / ".lock") == held.owner
        held.keep()


def test_one_of_several_takes_a_free_lock(remote):
    won = []

    def take(number):
        if lease._append(remote / ".lock", 0, f"process {number}", 60.0):
            won.append(number)

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert lease.holder(remote / ".lock") == f"process {won[0]}"


def test_whoever_comes_late_does_not_get_a_lock(remote):
    for number in range(4):
        assert lease._append(remote / ".lock", number, "quick", 60.0)
    # It had seen the lock free when there was no object yet.
    assert not lease._append(remote / ".lock", 0, "late", 60.0)
    assert lease.holder(remote / ".lock") == "quick"
    assert list(bucket.listing(remote / ".lock")) == ["000000004"]


def test_a_renewal_whose_answer_was_lost_still_holds(remote, monkeypatch):
    with lease.hold(remote / ".lock") as held:
        listing = bucket.listing

        def fail(address):
            raise OSError("no answer")

        monkeypatch.setattr(bucket, "listing", fail)
        with pytest.raises(OSError, match="no answer"):
            held.renew()
        monkeypatch.setattr(bucket, "listing", listing)
        held.renew()
        held.keep()
