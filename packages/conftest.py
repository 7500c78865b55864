"""What holds for the tests of all packages."""

import signal


def pytest_configure() -> None:
    """Let Ctrl-C and SIGHUP count in the tests' processes.

    A script that starts a command behind `&` has it ignore SIGINT, nohup has it ignore SIGHUP, and
    the processes that it starts inherit this.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in defaults.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
