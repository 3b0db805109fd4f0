"""Become another program, with what has to be settled between fork and exec.

    python -I -S launch.py [--die-with PID SIGNAL] [--user UID GID] [--enter-closed] -- COMMAND...

A program of its own, because the alternative (a `preexec_fn`) may deadlock in a process that has threads. The process
id stays the same, so whoever started this owns the server itself. It imports little and nothing of ours: it is on the
way of every start.
"""

import ctypes
import os
import sys

# Linux's own numbers: prctl(2), capabilities(7), capset(2).
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _kernel(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _prctl(option: int, *arguments: int) -> None:
    values = [ctypes.c_ulong(argument) for argument in arguments]
    _kernel("prctl", option, *values, *[ctypes.c_ulong(0)] * (4 - len(values)))


def _switch_user(user: int, group: int, enter_closed: bool) -> None:
    """Drop root for good; with `enter_closed`, keep the one right to pass through directories closed to `user`."""
    if enter_closed:
        _prctl(_PR_SET_KEEPCAPS, 1)
        # access(2) asks as if an ordinary user had no such right, unless this is set; PostgreSQL looks for its own
        # programs by it. Where the kernel does not let us, it finds them where every user may enter.
        try:  # noqa: SIM105 - contextlib would be imported at every start
            _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
        except OSError:
            pass
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    if not enter_closed:
        return
    refused: OSError | None = None
    # Reading is all it needs; Docker's default set leaves that right out and has only the wider one.
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        bit = 1 << capability
        try:
            data = (_Data * 2)(_Data(bit, bit, bit), _Data(0, 0, 0))
            _kernel("capset", ctypes.byref(_Header(_LINUX_CAPABILITY_VERSION_3, 0)), ctypes.byref(data))
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
            return
        except OSError as error:
            refused = error
    raise SystemExit(
        f"User {user} may not enter a directory on the way to this folder or to the program, and the kernel does not"
        f" let this process keep the right to ({refused}). Use a folder that every user may enter, or an ordinary user."
    )


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    options, command = arguments[:split], arguments[split + 1 :]
    if "--user" in options:
        at = options.index("--user")
        _switch_user(int(options[at + 1]), int(options[at + 2]), "--enter-closed" in options)
    if "--die-with" in options and sys.platform == "linux":
        at = options.index("--die-with")
        # After the change of user, which clears it.
        _prctl(_PR_SET_PDEATHSIG, int(options[at + 2]))
        if os.getppid() != int(options[at + 1]):
            raise SystemExit("The process that asked for this program has ended already.")
    try:
        os.execv(command[0], command)  # noqa: S606 - the whole purpose
    except OSError as error:
        raise SystemExit(f"{command[0]} cannot be started: {error.strerror}.") from None


if __name__ == "__main__":
    main(sys.argv[1:])
