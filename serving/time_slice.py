"""How long the kernel lets a process compute before another one has the core; Linux 6.12 or newer.

A server has more networks to run than cores. Where they take turns every few milliseconds, each turn begins by fetching
what the last one pushed out of the core's cache. Steps that are soon done keep the kernel's own short slice, and so go
before those with a long one: of those that have not had more than their share, EEVDF runs whose slice would end first.
"""

import ctypes
import os
import platform

#: The longest that the kernel grants.
LONGEST_NS = 100_000_000
#: ``sched_setattr(2)``, for which neither Python nor the C library of the supported systems has a function.
SYSCALLS = {"x86_64": 314, "aarch64": 274}


class _Attributes(ctypes.Structure):
    """``struct sched_attr``, its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def ask_for_long_slice() -> bool:
    """Ask for the longest time slice for this thread and those that it starts; priority and policy stay what they are.

    Returns whether the kernel took the request: an older one takes and ignores it, others refuse. Nothing but speed
    depends on it.
    """
    number = SYSCALLS.get(platform.machine())
    try:
        policy = os.sched_getscheduler(0)
        if number is None or policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
            return False
        asked = _Attributes(
            size=ctypes.sizeof(_Attributes),
            policy=policy,
            nice=os.getpriority(os.PRIO_PROCESS, 0),
            runtime_ns=LONGEST_NS,
        )
        return ctypes.CDLL(None).syscall(number, 0, ctypes.byref(asked), 0) == 0
    except OSError:
        return False
