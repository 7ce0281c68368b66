"""One writer a run: lock.json in its directory says who, and a heartbeat says that the writer still lives.

A writer that was killed leaves its lock behind. It is recognised as stale at once where its process has ended on this
machine, and elsewhere when its heartbeat has not moved for `STALE_SECONDS`, watched by one's own clock, so that clocks
need not agree. Object stores have no exclusive creation: there, whoever is read back after a moment has won.
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


_SETTLE_SECONDS = 0.5  # for two writers that claim at once to see whose claim stayed


@dataclass(frozen=True)
class LockOwner:
    """Who holds a run.

    Args:
        token: of this claim alone.
        host, pid, started: its process, and when that began (seconds since 1970).
        space: the boot and the namespace that the process's number belongs to, for containers of one host.
        user: whose it is.
        tick: when it began in ticks since the boot, which unlike `started` no setting of the clock moves.
        beat: grows while it lives.
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
        """A fresh claim."""
        me = psutil.Process()
        began = me.create_time()
        return LockOwner(uuid.uuid4().hex, socket.gethostname(), me.pid, began, _user(), _space(), _start_tick(me.pid))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} of {self.user} on {self.host}, running since {since}"

    @property
    def has_ended(self) -> bool:
        """Whether it was a process of this machine that is no more."""
        if not self.is_here:
            return False
        try:
            process = psutil.Process(self.pid)
            if self.tick is None:
                given_again = abs(process.create_time() - self.started) > 1.0
            else:
                given_again = self.tick != _start_tick(self.pid)
            return given_again or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    @property
    def is_here(self) -> bool:
        """Whether this process can tell whether that one lives: they see the same process numbers."""
        return (self.host, self.space) == (socket.gethostname(), _space())


@contextmanager
def run_lock(store: RunStore, progress: Progress | None = None) -> Iterator[None]:
    """Hold the run for the length of the block, in which the store writes only as long as the lock is ours.

    Raises:
        InputError: another process holds it; the directory cannot be written.
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
        with contextlib.suppress(InputError):  # of a directory that was taken away meanwhile
            _release(store, mine)


def _require_ours(store: RunStore, mine: LockOwner) -> None:
    """InputError where this process slept for so long that another took the run over, and may be done with it."""
    now = lock_owner(store)
    if now is None or now.token != mine.token:
        rule = "was taken from this process, which stood still for too long" + (f", by {now}" if now else "")
        raise InputError("output", store.uri, rule, "let that run finish, then run this again: it goes on")


def lock_owner(store: RunStore) -> LockOwner | None:
    """Who holds the run, living or not; None: nobody. Raises InputError where that cannot be told."""
    if not store.exists(LOCK):
        return None
    try:
        return _parsed(store.read(LOCK))
    except InputError:
        if store.exists(LOCK):
            raise
        return None  # released while we looked


def _parsed(data: bytes) -> LockOwner | None:
    """Whoever a lock names; None where it is half-written."""
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
    """Remove the lock that was found stale; one that another process put there meanwhile goes back to its place."""
    lock = Path(store.path(LOCK))
    aside = lock.with_name(f"{LOCK}.{mine.token}.tmp")
    with contextlib.suppress(FileNotFoundError):  # somebody else set it aside
        os.rename(lock, aside)
        found = _parsed(aside.read_bytes())
        if found is not None and (stale is None or found.token != stale.token):
            os.link(aside, lock)
        aside.unlink()


def _refuse_if_alive(store: RunStore, theirs: LockOwner, progress: Progress) -> None:
    """InputError unless the holder's heart stands still, or it lets go, while we watch."""
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
    """Create the lock where there is none: the one step that two processes of a shared folder cannot both take."""
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
        with contextlib.suppress(InputError):  # a full disk: the next beat may find room
            now = lock_owner(store)
            if now is None or now.token != mine.token:
                return  # this process slept for so long that another took the run over
            store.write(LOCK, _to_json(replace(mine, beat=beat)))


def _release(store: RunStore, mine: LockOwner) -> None:
    now = lock_owner(store)
    if now is None or now.token != mine.token:
        return
    store.delete(LOCK)
    if store.is_local:
        with contextlib.suppress(OSError):  # of a refused run nothing is left
            os.rmdir(store.root)


def _to_json(mine: LockOwner) -> str:
    return json.dumps(asdict(mine), indent=1) + "\n"


def _start_tick(pid: int) -> int | None:
    """When a process of this machine began (proc(5): stat, field 22); None: cannot be told."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _space() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux, and no such namespaces
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
