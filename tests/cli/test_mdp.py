"""``zpatterns mdp`` as a user has it: servers in processes, real sockets, exit codes."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time

import pytest
import zmq

from tests.cli.processes import Server, broker, invoke, output, zpatterns
from tests.example import endpoint_of
from tests.mdp.callers import in_thread
from tests.waiting import DEADLINE, until
from zpatterns.mdp import Client
from zpatterns.testing import BackgroundBroker

HANDLERS = '''
import time

def reverse(request):
    """A plain function."""
    return request.body[::-1]

async def shout(request):
    return [frame.upper() for frame in request.frames]

def fail(request):
    raise ValueError("no such customer: 42")

def count(request):
    for number in range(int(request.body)):
        yield b"%d" % number

def slow(request):
    print("begun", flush=True)
    time.sleep(1.5)
    return b"finished"

def binary(request):
    return [b"text", b"\\xff\\x00", b""]

from zpatterns.mdp import Worker

class Greeter(Worker):
    service = "something else"
    def handle(self, request):
        return b"hello from " + request.service.encode()
'''


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return tmp_path


def worker(endpoint, service, *arguments, **kwargs):
    return Server("mdp", "worker", service, "--connect", endpoint, "--heartbeat-interval", "0.5", *arguments, **kwargs)


def request(endpoint, *arguments, run=invoke, **kwargs):
    return run("mdp", "request", "--connect", endpoint, *arguments, **kwargs)


def test_each_argument_is_a_frame_and_each_frame_of_the_reply_a_line(endpoint, echo):
    assert output(request(endpoint, "echo", "one", "two words", "")) == b"one\ntwo words\n\n"


def test_the_body_comes_from_standard_input_byte_for_byte(endpoint, echo):
    body = bytes(range(256)) * 10
    assert output(request(endpoint, "echo", stdin=body, run=zpatterns)) == body + b"\n"


def test_an_empty_standard_input_is_one_empty_frame(endpoint, echo):
    assert output(request(endpoint, "echo", "--json")) == b'[""]\n'


def test_arguments_need_not_be_utf8(endpoint, echo):
    assert output(request(endpoint, "echo", b"\xff\xfe", run=zpatterns)) == b"\xff\xfe\n"


@pytest.mark.parametrize("protocol", ["0.1", "0.2"])
def test_either_protocol_reaches_a_worker_of_the_other(endpoint, echo, protocol):
    assert output(request(endpoint, "echo", "x", "--protocol", protocol)) == b"x\n"


def test_json_shows_what_is_not_utf8_in_base64(endpoint, directory):
    with worker(endpoint, "binary", "--handler", "handlers:binary", cwd=directory):
        result = request(endpoint, "binary", "x", "--json", "--wait")
    assert json.loads(output(result)) == ["text", {"base64": "/wA="}, ""]


@pytest.mark.parametrize(
    ("handler", "body", "reply"),
    [
        ("handlers:reverse", "abc", b"cba\n"),
        ("handlers:shout", "abc", b"ABC\n"),
        ("handlers:Greeter", "abc", b"hello from any\n"),
    ],
)
def test_any_callable_of_the_current_directory_can_serve(endpoint, directory, handler, body, reply):
    with worker(endpoint, "any", "--handler", handler, cwd=directory) as server:
        assert output(request(endpoint, "any", body, "--wait")) == reply
        assert server.stop() == 0


def test_a_generator_streams_and_a_request_has_the_whole(endpoint, directory):
    with worker(endpoint, "count", "--handler", "handlers:count", "--protocol", "0.2", cwd=directory):
        assert output(request(endpoint, "count", "3", "--wait")).split() == [b"0", b"1", b"2"]


def test_a_handler_that_raises_is_exit_code_1_with_its_message(endpoint, directory):
    with worker(endpoint, "fail", "--handler", "handlers:fail", cwd=directory) as server:
        result = request(endpoint, "fail", "x", "--wait")
        assert server.wait_for("handler_raised")
    assert result.returncode == 1
    assert b"no such customer: 42" in result.stderr
    assert result.stdout == b""


def test_no_such_service_is_exit_code_3_at_once(endpoint):
    begin = time.monotonic()
    result = request(endpoint, "nobody-serves-this", "x", "--timeout", "40")
    assert result.returncode == 3
    assert b"nobody-serves-this" in result.stderr
    assert b"--wait" in result.stderr
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    "command", [["request", "echo", "x"], ["bench", "--service", "echo", "--count", "1"]], ids=["request", "bench"]
)
def test_a_broker_that_cannot_say_whether_a_service_is_there_is_sent_the_request(peer, command):
    broker = peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")
    ended = threading.Event()

    def serve():
        while not ended.is_set():
            if broker.poll(20):
                *head, name, body = broker.recv_multipart()
                broker.send_multipart([*head, name, b"501" if name == b"mmi.service" else body])

    serving = in_thread(serve)
    try:
        output(invoke("mdp", *command, "--connect", endpoint_of(broker)))
    finally:
        ended.set()
        serving.result(DEADLINE)


def test_wait_waits_for_a_worker(endpoint):
    with Server(
        "mdp", "request", "late", "x", "--wait", "--connect", endpoint, "--timeout", "30", json_log=False
    ) as asking:
        until(lambda: [entry for entry in services(endpoint) if entry["service"] == "late"], "the request is queued")
        with worker(endpoint, "late", "--echo"):
            assert asking.process.wait(DEADLINE) == 0
            assert asking.process.stdout is not None
            assert asking.process.stdout.read() == b"x\n"


def test_wait_ends_at_the_timeout_with_exit_code_4(endpoint):
    result = request(endpoint, "never", "x", "--wait", "--timeout", "0.5")
    assert result.returncode == 4
    assert b"never" in result.stderr


@pytest.mark.parametrize("command", [["request", "echo", "x"], ["services"]])
def test_nobody_listening_is_exit_code_4_at_the_timeout(free_port, command):
    begin = time.monotonic()
    result = invoke("mdp", *command, "--connect", f"tcp://127.0.0.1:{free_port}", "--timeout", "0.5")
    assert result.returncode == 4
    assert 0.5 <= time.monotonic() - begin < 15
    assert f"no broker answered at tcp://127.0.0.1:{free_port}".encode() in result.stderr
    assert b"mmi." not in result.stderr  # which nobody asked for
    assert result.stderr.count(b"\n") == 1, result.stderr


BAD_ENDPOINTS = [
    "127.0.0.1:5555",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:99999",
    "carrier-pigeon://x",
    "tcp://no-such-host.invalid:5",
    "tcp://a..b:5",
    "tcp://[zz]:5",
]
ASKING = [["request", "echo", "x"], ["services"], ["worker", "echo", "--echo"], ["bench"]]


@pytest.mark.parametrize(
    ("command", "bad"),
    [*((ASKING[0], bad) for bad in BAD_ENDPOINTS), *((command, "nowhere") for command in ASKING[1:])],
)
def test_an_address_that_is_none_is_exit_code_5(command, bad):
    result = invoke("mdp", *command, "--connect", bad)
    assert result.returncode == 5
    assert bad.encode() in result.stderr


@pytest.mark.parametrize("bad", ["127.0.0.1:5555", "tcp://127.0.0.1", "tcp://192.0.2.1:*"])
def test_an_address_that_cannot_be_bound_is_exit_code_5(bad):
    result = invoke("mdp", "broker", "--bind", bad)
    assert result.returncode == 5
    assert bad.encode() in result.stderr


def test_an_address_in_use_is_exit_code_5():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bad = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = zpatterns("mdp", "broker", "--bind", bad)
    assert result.returncode == 5
    assert bad.encode() in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["request"],
        ["request", "echo", "x", "--timeout", "0"],
        ["request", "echo", "x", "--timeout", "nan"],
        ["request", "echo", "x", "--retries", "-1"],
        ["request", "echo", "x", "--protocol", "0.3"],
        ["request", "", "x"],
        ["request", "line\nbreak", "x"],
        ["request", "n" * 256, "x"],
        ["worker", "echo", "--echo", "--handler", "json:dumps"],
        ["worker", "echo", "--concurrency", "0"],
        ["broker", "--liveness", "0"],
        ["broker", "--request-ttl", "inf"],
        ["broker", "--no-such-option"],
        ["bench", "--count", "0"],
    ],
)
def test_what_makes_no_sense_is_exit_code_2(arguments):
    result = invoke("mdp", *arguments)
    assert result.returncode == 2, result.stdout
    assert b"Usage:" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["request", "\udcff", "x"],  # a byte that is not UTF-8
        ["worker", "mmi.mine", "--echo"],
        ["worker", "echo", "--handler", "no_such_module_at_all:f"],
    ],
)
def test_what_is_found_out_later_is_exit_code_2_without_a_traceback(arguments):
    result = invoke("mdp", *arguments)
    assert result.returncode == 2, result.stderr
    assert b"Usage:" in result.stderr


def services(endpoint):
    return json.loads(output(invoke("mdp", "services", "--connect", endpoint, "--json")))


def test_services_lists_what_the_broker_knows(endpoint, echo):
    entry = {"service": "echo", "workers": 1, "idle": 1, "queued": 0}
    # Of a worker that stood still for a lease the broker knows again as soon as it goes on.
    until(lambda: [each for each in services(endpoint) if each["service"] == "echo"] == [entry], "the worker is idle")
    lines = output(invoke("mdp", "services", "--connect", endpoint)).decode().splitlines()
    assert lines[0].split() == ["SERVICE", "WORKERS", "IDLE", "QUEUED"]
    assert ["echo", "1", "1", "0"] in [line.split() for line in lines]


def test_concurrency_is_that_many_registered_workers(endpoint):
    with worker(endpoint, "lanes", "--echo", "--concurrency", "5"):
        output(request(endpoint, "lanes", "x", "--wait"))

        def five():
            return [entry for entry in services(endpoint) if entry["service"] == "lanes" and entry["workers"] == 5]

        until(five, "five workers of one process")


def test_a_broker_without_services_says_so():
    with BackgroundBroker() as background:
        assert output(invoke("mdp", "services", "--connect", background.endpoint)) == b"The broker knows no service.\n"
        assert services(background.endpoint) == []


def test_mmi_can_be_asked_by_hand(endpoint, echo):
    assert output(request(endpoint, "mmi.service", "echo")) == b"200\n"
    assert output(request(endpoint, "mmi.service", "nobody")) == b"404\n"
    assert output(request(endpoint, "mmi.nonsense", "x")) == b"501\n"


def test_a_server_logs_one_line_when_it_is_ready_with_the_real_endpoint():
    server, endpoint = broker()
    with server:
        assert endpoint.startswith("tcp://127.0.0.1:")
        assert int(endpoint.rpartition(":")[2]) > 0
        assert len(server.events("ready")) == 1
        host, port = endpoint.removeprefix("tcp://").split(":")
        socket.create_connection((host, int(port)), timeout=5).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_ends_with_exit_code_0_when_told_to(number, cold):
    server, _ = broker()
    with server:
        assert server.stop(number) == 0


def test_a_worker_finishes_what_it_has_in_hand_when_told_to_stop(endpoint, directory, cold):
    with (
        worker(endpoint, "slow", "--handler", "handlers:slow", cwd=directory) as server,
        Client(endpoint, timeout=DEADLINE, retries=0) as client,
    ):
        asking = in_thread(lambda: client.request("slow", "x"))
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == b"begun\n"
        assert server.stop(signal.SIGTERM) == 0
        assert asking.result(DEADLINE) == [b"finished"]


def test_a_broker_binds_every_endpoint_it_is_given():
    server = Server("mdp", "broker", "--bind", "tcp://127.0.0.1:*", "--bind", "tcp://127.0.0.1:*")
    with server:
        endpoints = server.wait_for("ready")["endpoints"]
        assert len(set(endpoints)) == 2
        for endpoint in endpoints:
            assert services(endpoint) == []


def test_options_come_from_the_environment(endpoint, echo):
    result = invoke("mdp", "request", "echo", "x", env={"ZPATTERNS_MDP_REQUEST_CONNECT": endpoint})
    assert output(result) == b"x\n"


def test_json_may_be_wanted_by_the_environment(endpoint):
    result = invoke("mdp", "services", "--connect", endpoint, env={"ZPATTERNS_MDP_SERVICES_JSON": "1"})
    assert isinstance(json.loads(output(result)), list)


def test_the_first_broker_may_be_dead(endpoint, echo, free_port):
    result = request(f"tcp://127.0.0.1:{free_port}", "--connect", endpoint, "echo", "x", "--timeout", "8")
    assert output(result) == b"x\n"


def test_the_console_log_says_ready_in_words():
    with Server("mdp", "broker", "--bind", "tcp://127.0.0.1:*", "--log-format", "console", json_log=False) as server:
        until(lambda: any("ready" in line and "endpoint=tcp://127.0.0.1:" in line for line in server.lines), "ready")


def test_interrupting_a_request_is_no_traceback(free_port, cold):
    endpoint = f"tcp://127.0.0.1:{free_port}"
    with Server("mdp", "request", "echo", "x", "--connect", endpoint, "--timeout", "60", json_log=False) as asking:
        until(lambda: socket_threads(asking.process.pid), "the client has opened its socket")
        assert asking.stop(signal.SIGINT) == 130
        assert not any("Traceback" in line for line in asking.lines)


def socket_threads(pid):
    """Whether libzmq's threads run in that process."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return any(line.startswith("Threads:") and int(line.split()[1]) > 2 for line in status)
    except OSError:
        return False
