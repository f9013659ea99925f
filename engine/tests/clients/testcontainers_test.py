"""testcontainers for Python as those use it who test with it: each test is a way of its documentation to have a container."""

import pathlib
import socket

import docker
import pytest
from testcontainers.compose import DockerCompose
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer, ExecConfig, Reaper
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import (
    CompositeWaitStrategy,
    ContainerStatusWaitStrategy,
    ExecWaitStrategy,
    FileExistsWaitStrategy,
    HealthcheckWaitStrategy,
    HttpWaitStrategy,
    LogMessageWaitStrategy,
    PortWaitStrategy,
)
from testcontainers.core.waiting_utils import wait_for_logs

SERVER = ["sh", "-c", "echo ready; exec nc -ll -p 80 -e echo served"]
SLEEP = ["sleep", "1000"]


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert docker.from_env().containers.list(all=True) == []


def answer(container):
    address = (container.get_container_host_ip(), container.get_exposed_port(80))
    with socket.create_connection(address, timeout=20) as connection:
        return connection.makefile().read()


def test_an_exposed_port_and_a_line_of_the_log():
    with DockerContainer("busybox", command=SERVER).with_exposed_ports(80) as container:
        wait_for_logs(container, "ready", timeout=20)
        assert answer(container) == "served\n"
        assert container.get_logs() == (b"ready\n", b"")


def test_a_port_of_ones_own_choice():
    container = DockerContainer("busybox", command=SERVER).with_bind_ports("80/tcp", 18099)
    with container.waiting_for(PortWaitStrategy(80).with_startup_timeout(20)):
        assert container.get_exposed_port(80) == 18099
        assert answer(container) == "served\n"


def test_a_web_server_that_answers():
    files = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
    container = DockerContainer("busybox", command=["sh", "-c", files]).with_exposed_ports(80)
    with container.waiting_for(HttpWaitStrategy(80).for_status_code(200).with_startup_timeout(20)):
        assert container.status in ("running", "created")


def test_neighbours_by_their_aliases():
    with Network() as network:
        server = DockerContainer("busybox", command=SERVER, network=network, network_aliases=["db", "database"])
        with server.waiting_for(LogMessageWaitStrategy("ready").with_startup_timeout(20)):
            with DockerContainer("busybox", command=SLEEP).with_network(network) as client:
                for name in ("db", "database"):
                    code, output = client.exec(["sh", "-c", f"nc -w 5 {name} 80 < /dev/null"])
                    assert (code, output) == (0, b"served\n")
        joined = DockerContainer("busybox", command=SLEEP)
        with joined:
            network.connect(joined.get_container_id(), ["late"])
            joined.reload()
            assert network.name in joined.get_wrapped_container().attrs["NetworkSettings"]["Networks"]


def test_folders_of_the_host_volumes_and_memory(tmp_path):
    (tmp_path / "given").write_text("given")
    volume = docker.from_env().volumes.create("kept", labels={"by": "testcontainers"})
    container = (
        DockerContainer("busybox", command=SLEEP, volumes=[(tmp_path, "/host", "rw")])
        .with_volume_mapping("kept", "/kept", "rw")
        .with_tmpfs_mount("/memory", "size=1m")
    )
    with container:
        script = "cat /host/given; echo new > /host/new; echo kept > /kept/file; df -k /memory | tail -1"
        code, output = container.exec(["sh", "-c", script])
        assert code == 0 and output.startswith(b"given") and b"1024" in output
    assert (tmp_path / "new").read_text() == "new\n"
    with DockerContainer("busybox", command=SLEEP, volumes=[("kept", "/kept", "ro")]) as container:
        assert container.exec("cat /kept/file").output == b"kept\n"
        assert container.exec(["touch", "/kept/x"]).exit_code == 1
    volume.remove()


def test_programs_in_a_container(tmp_path):
    (tmp_path / "env").write_text("FROM_FILE=1\n")
    container = DockerContainer("busybox", command=SLEEP, env={"A": "1"}).with_env_file(tmp_path / "env")
    with container.with_envs(B="2") as container:
        assert container.exec(["sh", "-c", "echo $A $B $FROM_FILE"]).output == b"1 2 1\n"
        config = ExecConfig(["sh", "-c", "id -u; pwd; echo $C; exit 5"], "nobody", {"C": "3"}, "/tmp")
        assert container.exec(config) == (5, b"65534\n/tmp\n3\n")
        assert container.exec("nosuch").exit_code == 127


def test_files_before_and_after_the_start(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("of a folder")
    container = (
        DockerContainer("busybox", command=["sh", "-c", "cat /early; sleep 1000"])
        .with_copy_into_container(b"early\n", "/early")
        .with_copy_into_container(tmp_path / "folder", "/folder")
        .waiting_for(LogMessageWaitStrategy("early").with_startup_timeout(20))
    )
    with container:
        container.copy_into_container(b"#!/bin/sh\necho runs\n", "/usr/late", 0o755)
        assert container.exec("/usr/late").output == b"runs\n"
        code, output = container.exec(["sh", "-c", "cat $(find /folder -type f)"])
        assert (code, output) == (0, b"of a folder")
        container.copy_from_container("/usr/late", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"#!/bin/sh\necho runs\n"


def test_ways_to_wait(tmp_path):
    script = "sleep 0.3; echo made > /host/file; touch /done; sleep 1000"
    container = DockerContainer("busybox", command=["sh", "-c", script], volumes=[(tmp_path, "/host", "rw")])
    strategy = CompositeWaitStrategy(
        ContainerStatusWaitStrategy(),
        FileExistsWaitStrategy(tmp_path / "file"),
        ExecWaitStrategy(["test", "-e", "/done"]),
    )
    with container.waiting_for(strategy.with_startup_timeout(20)):
        assert (tmp_path / "file").exists()


def test_a_container_that_becomes_healthy():
    check = {"test": ["CMD", "test", "-e", "/well"], "interval": 100_000_000, "retries": 100}
    container = DockerContainer("busybox", command=["sh", "-c", "sleep 0.5; touch /well; sleep 1000"])
    container.with_kwargs(healthcheck=check)
    with container.waiting_for(HealthcheckWaitStrategy().with_startup_timeout(20)):
        info = container.get_container_info()
        assert info.State.Health.Status == "healthy"


def test_one_that_does_not_come_up_in_time():
    container = DockerContainer("busybox", command=["sh", "-c", "echo other; sleep 1000"])
    with pytest.raises(TimeoutError):
        with container.waiting_for(LogMessageWaitStrategy("never").with_startup_timeout(1)):
            pass


def test_the_end_of_a_container():
    with DockerContainer("busybox", command=["sh", "-c", "exit 7"]) as container:
        assert container.wait() == 7


def test_an_image_of_ones_own(tmp_path):
    (tmp_path / "Dockerfile").write_text('FROM busybox\nARG WORD\nENV WORD=$WORD\nCMD ["sh", "-c", "echo $WORD"]\n')
    with DockerImage(path=tmp_path, tag="own:test", buildargs={"WORD": "built"}) as image:
        with DockerContainer(str(image)) as container:
            assert container.wait() == 0
            assert container.get_logs() == (b"built\n", b"")
    assert docker.from_env().images.list("own") == []


def test_who_cleans_up(tmp_path, monkeypatch):
    """Ryuk's own image is not to be had: one that only listens stands in for it."""
    (tmp_path / "Dockerfile").write_text('FROM busybox\nCMD ["nc", "-l", "-p", "8080"]\n')
    with DockerImage(path=tmp_path, tag="ryuk:own"):
        monkeypatch.setattr(testcontainers_config, "ryuk_image", "ryuk:own")
        monkeypatch.setattr(testcontainers_config, "ryuk_disabled", False)
        try:
            with DockerContainer("busybox", command=SLEEP) as container:
                labels = container.get_wrapped_container().labels
                ryuk = Reaper._container.get_wrapped_container()
                assert ryuk.attrs["Mounts"][0]["Destination"] == "/var/run/docker.sock"
                assert ryuk.logs() == f"label=org.testcontainers.session-id={labels['org.testcontainers.session-id']}\r\n".encode()
        finally:
            Reaper.delete_instance()
        docker.from_env().containers.prune()


def test_compose(tmp_path):
    (tmp_path / "compose.yaml").write_text(
        "services:\n"
        "  db:\n"
        "    image: busybox\n"
        f"    command: {SERVER}\n"
        "    ports: ['80']\n"
        "  app:\n"
        "    image: busybox\n"
        "    command: ['sleep', '1000']\n"
        "    depends_on: [db]\n"
    )
    with DockerCompose(str(tmp_path), pull=False) as compose:
        out, err, code = compose.exec_in_container(["sh", "-c", "nc -w 5 db 80 < /dev/null"], "app")
        assert (out, code) == ("served\n", 0)
        host, port = compose.get_service_host_and_port("db", 80)
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            assert connection.makefile().read() == "served\n"
        assert "ready" in compose.get_logs("db")[0]
