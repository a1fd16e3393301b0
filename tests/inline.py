"""A pool without processes: tasks are done one after another, when results are asked for."""

from __future__ import annotations

import time


class InlinePool:
    """Stands in for local_pool.Pool where a test is about what is done, not about processes."""

    def __init__(self, do, settings, *, prepare, on_message):
        self.do, self.on_message = do, on_message
        self.n_workers, self.given = len(settings), []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    @property
    def n_idle(self):
        return self.n_workers - len(self.given)

    def submit(self, key, task):
        self.given.append((key, task))

    def results(self, timeout_seconds):
        if not self.given:
            time.sleep(min(timeout_seconds, 0.05))
            return []
        key, task = self.given.pop(0)
        return [(key, self.do(task, lambda message: self.on_message(key, message)))]
