"""An interrupt while torch is being imported is answered when it is there."""

import signal
import threading

import pytest

from dsf.cli.command import held_back


@pytest.fixture(autouse=True)
def _the_default():
    """A suite that runs in the background is handed that interrupts are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def imports(done):
    with held_back():
        signal.raise_signal(signal.SIGINT)
        done.append("imported")


def test_it_waits_for_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt):
        imports(done)
    assert done == ["imported"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_fails_in_the_block_comes_through():
    with pytest.raises(AttributeError):
        imports(None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_ignores_interrupts_goes_on_ignoring_them():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    imports([])
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_only_runs_its_block():
    done = []

    def work():
        with held_back():
            done.append("imported")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["imported"]
