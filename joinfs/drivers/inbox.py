"""Requests as they come from the kernel, one after another.

A process that waits for one answer after another sends the next request some microseconds after it got the last.
To go to sleep meanwhile and be woken takes longer than most answers, above all in a virtual machine. So as long as
requests come that quickly, the next is looked for, for a moment, before going to sleep; after one that did not come
in that moment, not any more until they come quickly again. A mount that nobody uses sleeps.

See Also:
    Documentation/virt/guest-halt-polling.rst of the kernel, which does the same one floor down.
"""

import errno
import logging
import os
import select
import time

log = logging.getLogger(__name__)

ENDED = frozenset({errno.ENODEV, errno.EBADF, errno.ECONNABORTED})
_AGAIN = frozenset({errno.ENOENT, errno.EINTR})
# Nanoseconds: how soon is quickly, with waking up and without.
QUICKLY = 200_000
MOMENT = 60_000


class Inbox:
    """Where requests are read from. One thread at a time reads.

    Args:
        device: The descriptor of the mount.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        os.set_blocking(device, False)
        self._poll = select.poll()
        self._poll.register(device, select.POLLIN)
        self._come_quickly = False
        self._has_company = len(os.sched_getaffinity(0)) > 1

    def read(self, view: memoryview, alone: bool) -> int:
        """Read a request into ``view`` and answer its length; 0 when the mount is gone.

        Args:
            view: Room for one request.
            alone: Whether no other thread has anything to do meanwhile.
        """
        begun = time.perf_counter_ns()
        looks = self._come_quickly and alone and self._has_company
        while True:
            try:
                size = os.readv(self._device, [view])
            except BlockingIOError:
                if looks and time.perf_counter_ns() - begun < MOMENT:
                    continue
                looks = False
                self._poll.poll()
            except OSError as error:
                # ENOENT: the request was taken back before we had it.
                if error.errno in _AGAIN:
                    continue
                if error.errno not in ENDED:
                    log.error("reading requests failed: %s", error)
                return 0
            else:
                self._come_quickly = time.perf_counter_ns() - begun < (MOMENT if looks else QUICKLY)
                return size
