"""Worker processes that end with the process that started them."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it has ended, however that was; call it in a worker.

    A process that is killed has no time to end its workers. They would stay, with their memory, and wait for ever.
    """
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="end_with_parent").start()
