"""The lock of a run: lock.json in its directory names the one writer, and its heartbeat shows that the writer lives.

A writer that was killed leaves its lock behind. The lock is stale at once where its process has ended on this machine.
Elsewhere it is stale when its heartbeat has not moved for `STALE_SECONDS`; the watching process uses its own clock, so
that clocks need not agree. Object stores have no exclusive creation: there, the claim that is read back after a moment
wins.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from rsf_dist.errors import InputError
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.run_store import RunStore, remedy_of

LOCK = "lock.json"
BEAT_SECONDS = 5.0
STALE_SECONDS = 20.0
_SETTLE_SECONDS = 0.5  # after which two writers that claimed at once see whose claim stayed


@dataclass(frozen=True)
class LockOwner:
    """The process that holds a run.

    Args:
        token: a random text, unique to this claim.
        host: the name of its machine.
        pid: its process id.
        started: the time at which it began, in seconds since 1970.
        user: the name of its user.
        space: the boot and the namespace that pid belongs to, which tell the containers of one host apart.
        tick: the time at which it began, in ticks since the boot, which no change of the clock moves; None means that
            it is not known.
        beat: a number that grows while the process lives.
    """

    token: str
    host: str
    pid: int
    started: float
    user: str
    space: str = ""
    tick: int | None = None
    beat: int = 0

    @staticmethod
    def this_process() -> LockOwner:
        """Return a new claim by this process."""
        me = psutil.Process()
        began = me.create_time()
        return LockOwner(uuid.uuid4().hex, socket.gethostname(), me.pid, began, _user(), _space(), _start_tick(me.pid))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} of {self.user} on {self.host}, running since {since}"

    @property
    def has_ended(self) -> bool:
        """True if the process was one of this machine and has ended."""
        if not self.is_here:
            return False
        try:
            process = psutil.Process(self.pid)
            if self.tick is None:
                reused = abs(process.create_time() - self.started) > 1.0
            else:
                reused = self.tick != _start_tick(self.pid)
            return reused or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    @property
    def is_here(self) -> bool:
        """True if this process can tell whether the holder lives, because both see the same process ids."""
        return (self.host, self.space) == (socket.gethostname(), _space())


@contextmanager
def run_lock(store: RunStore, progress: Progress | None = None) -> Iterator[None]:
    """Hold the run during the block, in which the store writes only while this process holds the lock.

    Args:
        store: the run's directory.
        progress: shows a message while another process's lock is watched.

    Raises:
        InputError: another process holds the run, or the directory cannot be written.
    """
    mine = LockOwner.this_process()
    _claim(store, mine, progress or Progress())
    store.guard = partial(_require_ours, store, mine)
    beating = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, mine, beating), daemon=True)
    thread.start()
    try:
        yield
    finally:
        store.guard = None
        beating.set()
        thread.join()
        with contextlib.suppress(InputError):  # the directory may have been removed meanwhile
            _release(store, mine)


def _require_ours(store: RunStore, mine: LockOwner) -> None:
    """Raise InputError where this process stood still for so long that another took the run over."""
    now = lock_owner(store)
    if now is None or now.token != mine.token:
        rule = "was taken from this process, which stood still for too long" + (f", by {now}" if now else "")
        raise InputError("output", store.uri, rule, "let that run finish, then run this again: it goes on")


def lock_owner(store: RunStore) -> LockOwner | None:
    """Return the process that holds the run, living or not, or None. Raises InputError where it cannot be read."""
    if not store.exists(LOCK):
        return None
    try:
        return _parsed(store.read(LOCK))
    except InputError:
        if store.exists(LOCK):
            raise
        return None  # released while we looked


def _parsed(data: bytes) -> LockOwner | None:
    """Return the owner that a lock names, or None where the lock is incomplete."""
    try:
        raw: dict[str, Any] = json.loads(data)
        return LockOwner(**raw)
    except (ValueError, TypeError):
        return None


def _claim(store: RunStore, mine: LockOwner, progress: Progress) -> None:
    if store.is_local and _created(store, mine):
        return
    theirs = lock_owner(store)
    if theirs is not None and not theirs.has_ended:
        _refuse_if_alive(store, theirs, progress)
    if store.is_local:
        _set_aside(store, theirs, mine)
        if _created(store, mine):
            return
    else:
        store.write(LOCK, _to_json(mine))
        time.sleep(_SETTLE_SECONDS)
    winner = lock_owner(store)
    if winner is None or winner.token != mine.token:
        raise _held_by(store, winner or theirs or mine)


def _set_aside(store: RunStore, stale: LockOwner | None, mine: LockOwner) -> None:
    """Remove the lock that was found stale. A lock that another process put there meanwhile is put back."""
    lock = Path(store.path(LOCK))
    aside = lock.with_name(f"{LOCK}.{mine.token}.tmp")
    with contextlib.suppress(FileNotFoundError):  # another process has set it aside
        os.rename(lock, aside)
        removed = _parsed(aside.read_bytes())
        if removed is not None and (stale is None or removed.token != stale.token):
            os.link(aside, lock)
        aside.unlink()


def _refuse_if_alive(store: RunStore, theirs: LockOwner, progress: Progress) -> None:
    """Raise InputError unless the holder's heartbeat stands still, or the lock is released, while we watch."""
    if theirs.is_here:
        raise _held_by(store, theirs)
    progress.say(f"the run's directory is held by {theirs}: waiting {STALE_SECONDS:.0f} s for a sign of life")
    end = time.monotonic() + STALE_SECONDS
    while time.monotonic() < end:
        time.sleep(1.0)
        now = lock_owner(store)
        if now is None:
            return
        if now != theirs:
            raise _held_by(store, now)


def _held_by(store: RunStore, theirs: LockOwner) -> InputError:
    return InputError("output", store.uri, f"is held by {theirs}", "wait until it ends, or name another directory")


def _created(store: RunStore, mine: LockOwner) -> bool:
    """Create the lock if there is none. Of two processes on a shared folder, only one succeeds."""
    path = Path(store.path(LOCK))
    draft = path.with_name(f"{LOCK}.{mine.token}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(_to_json(mine))
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError as err:
        if not path.parent.is_dir():  # a file is in the way
            raise InputError("output", store.uri, f"cannot be written ({err})", remedy_of(err)) from err
        return False
    except OSError as err:
        raise InputError("output", store.uri, f"cannot be written ({err})", remedy_of(err)) from err
    return True


def _beat(store: RunStore, mine: LockOwner, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(BEAT_SECONDS):
        beat += 1
        with contextlib.suppress(InputError):  # the disk may be full; the next beat may find room
            now = lock_owner(store)
            if now is None or now.token != mine.token:
                return  # this process stood still for so long that another took the run over
            store.write(LOCK, _to_json(replace(mine, beat=beat)))


def _release(store: RunStore, mine: LockOwner) -> None:
    now = lock_owner(store)
    if now is None or now.token != mine.token:
        return
    store.delete(LOCK)
    if store.is_local:
        with contextlib.suppress(OSError):  # so that a refused run leaves nothing behind
            os.rmdir(store.root)


def _to_json(mine: LockOwner) -> str:
    return json.dumps(asdict(mine), indent=1) + "\n"


def _start_tick(pid: int) -> int | None:
    """Return the time at which a process of this machine began, in ticks since the boot, or None if unknown.

    See proc(5): stat, field 22.
    """
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _space() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # systems other than Linux have no such namespaces
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
