"""The S3 of the tests does what tests of the store need of it."""

import os
import select
import subprocess
import sys
from pathlib import Path

import aioboto3
import pytest
from botocore.exceptions import ClientError

from object_servers.fixtures import ACTIONS, NewS3Server, S3Server


async def call(server: S3Server, action: str, user: str | None = None, **arguments: object) -> object:
    environ = server.environ if user is None else server.environ_of(user)
    session = aioboto3.Session(
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"]
    )
    async with session.client("s3", region_name=server.region, endpoint_url=server.endpoint) as client:
        return await getattr(client, action)(Bucket=server.bucket, **arguments)


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


async def test_a_second_put_of_a_key_is_refused(s3_server: S3Server) -> None:
    key = s3_server.store_url("key").removeprefix(f"s3://{s3_server.bucket}/").partition("?")[0]
    await call(s3_server, "put_object", Key=key, Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        await call(s3_server, "put_object", Key=key, Body=b"second", IfNoneMatch="*")
    assert code(caught) == "PreconditionFailed"


@pytest.mark.parametrize("denied", ACTIONS)
async def test_a_user_may_do_all_but_one_thing(s3_server: S3Server, denied: str) -> None:
    user = f"without-{denied.removeprefix('s3:')}"
    calls: dict[str, tuple[str, dict[str, object]]] = {
        "s3:PutObject": ("put_object", {"Key": f"{user}/key", "Body": b"x"}),
        "s3:GetObject": ("get_object", {"Key": "ready"}),
        "s3:ListBucket": ("list_objects_v2", {}),
        "s3:DeleteObject": ("delete_object", {"Key": f"{user}/key"}),
    }
    for action, (method, arguments) in calls.items():
        if action == denied:
            with pytest.raises(ClientError) as caught:
                await call(s3_server, method, user, **arguments)
            assert code(caught) == "AccessDenied"
        else:
            await call(s3_server, method, user, **arguments)


async def test_a_killed_server_comes_back_at_its_address_with_its_data(new_s3_server: NewS3Server) -> None:
    server = new_s3_server()
    assert server.process is not None
    await call(server, "put_object", Key="before", Body=b"kept", IfNoneMatch="*")
    server.process.kill()
    assert server.process.process_id is None
    server.process.start()
    with pytest.raises(ClientError) as caught:
        await call(server, "put_object", Key="before", Body=b"other", IfNoneMatch="*")
    assert code(caught) == "PreconditionFailed"


@pytest.mark.usefixtures("new_s3_server")  # skips it where there is no weed
def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also when that is killed and cleans nothing up."""
    starter = (
        "import pathlib, sys\n"
        "from object_servers.seaweed import SeaweedFS\n"
        "server = SeaweedFS(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server.process_id, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", starter, str(tmp_path / "s3")]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        handle = os.pidfd_open(server)
        try:
            process.kill()
            ended, _, _ = select.select([handle], [], [], 30)  # readable when it has ended
            assert ended
        finally:
            os.close(handle)
