"""Starts a Quarry server for a test and ends it again."""
import argparse
import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

SKIPPED = 77  # ctest's SKIP_RETURN_CODE


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def parse_arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--server-cmd", required=True,
                        help="command that serves on port {port}")
    parser.add_argument("--keyed-server-cmd", default="",
                        help="the same, asking for the API key 'test-key'")
    parser.add_argument("--question", default="Who built the steam engine?",
                        help="a question that the server's documents answer")
    parser.add_argument("--screenshots", default="", help="folder for screenshots of the page")
    return parser.parse_args()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_ready(base):
    try:
        with urllib.request.urlopen(base + "/readyz", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextlib.contextmanager
def running_server(command, ready_seconds=120):
    """Yields the base URL; afterwards the server must end with status 0 on SIGTERM."""
    port = free_port()
    process = subprocess.Popen(shlex.split(command.replace("{port}", str(port))))
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + ready_seconds
        while not is_ready(base):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}: {command}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server was not ready after {ready_seconds} s: {command}")
            time.sleep(0.05)
        yield base
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=60)
        assert status == 0, f"the server ended with status {status} on SIGTERM"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
