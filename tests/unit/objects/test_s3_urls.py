"""URLs of S3 stores: what is wrong is named in one line, and no secret is repeated."""

import sys

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.objects.s3 import parse_url, settings


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "no bucket's name"),
        ("s3:///root", "no bucket's name"),
        ("s3://b/root", "no bucket's name"),
        ("s3:/bucket", "unknown kind"),
        ("s3://bucket--use1-az4--x-s3/root", "directory bucket"),
        ("s3://bucket/a//b", "no such root"),
        ("s3://bucket/../b", "no such root"),
        ("s3://bucket/%C3%A4", "no such root"),
        ("s3://bucket/" + "/".join(["x" * 200] * 3), f"at most {settings.ROOT_BYTES_MAX}"),
        ("s3://bucket/root?speed=11", "unknown parameter 'speed'"),
        ("s3://bucket/root?region=eu west", "region"),
        ("s3://bucket/root?endpoint=localhost:9000", "endpoint"),
        ("s3://bucket/root?endpoint=http://host:99999", "no good port"),
        ("s3://bucket/root?kms_key=k", "kms_key needs sse=aws:kms"),
        ("s3://bucket/root?sse=AES256&bucket_key=true", "bucket_key needs sse=aws:kms"),
        ("s3://bucket/root?storage_class=DEEP_ARCHIVE", "storage_class"),
        ("s3://bucket/root?tags=alone", "tags=name=value"),
        ("s3://bucket/root?tags=a=1,a=2", "each name once"),
        ("s3://bucket/root?tags=" + ",".join(f"t{n}=x" for n in range(11)), "at most 10"),
        ("s3://bucket/root?tags=a=%00", "none that S3 takes"),
        ("s3://bucket/root?page_keys=1001", "page_keys"),
        ("s3://bucket/root?expected_owner=me", "expected_owner"),
    ],
)
def test_a_wrong_url_is_one_line_that_names_the_fault(url: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url, clock=SystemClock(), metrics=NoMetrics())
    assert says in str(caught.value)
    assert "object store" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAXXXX:very-secret@bucket/root",
        "s3://bucket/root?aws_secret_access_key=very-secret",
        "s3://bucket/root?very-secret",
        "s3://bucket/root?endpoint=https://AKIAXXXX:very-secret@host:9000",
        "s3://bucket/root?endpoint=https%3A%2F%2FAKIAXXXX%3Avery-secret%40host",
        "s3://bucket/root?region=us-east-1&X-Amz-Signature=very-secret",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url, clock=SystemClock(), metrics=NoMetrics())
    assert "very-secret" not in str(caught.value)


def test_without_aioboto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cutbank.objects.s3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aioboto3", None)
    with pytest.raises(UsageError, match=r"s3:// needs the extra s3: pip install 'cutbank\[s3\]'"):
        open_store("s3://bucket/root", clock=SystemClock(), metrics=NoMetrics())


def test_the_root_is_the_identity_whatever_the_parameters() -> None:
    for url in ("s3://bucket/a/b", "s3://bucket/a/b/", "s3://bucket/a/b?region=eu-west-1", "s3://bucket/a%2Fb"):
        place, _ = parse_url(url)
        assert (place.url, place.prefix) == ("s3://bucket/a/b", "a/b/")
    place, _ = parse_url("s3://bucket")
    assert (place.url, place.prefix) == ("s3://bucket", "")


def test_every_parameter_is_taken() -> None:
    _, told = parse_url(
        "s3://bucket/root?region=eu-west-1&endpoint=https://s3.example.com:9000&path_style=false&sse=aws:kms&kms_key=k"
        "&bucket_key=true&storage_class=STANDARD_IA&tags=team=trades,env=prod&expected_owner=123456789012&checksum=md5"
    )
    assert told.tags == (("team", "trades"), ("env", "prod"))
    assert (told.region, told.path_style, told.bucket_key, told.sse) == ("eu-west-1", False, True, "aws:kms")
    assert parse_url("s3://bucket/root?tags=a=")[1].tags == (("a", ""),)


def test_a_tag_longer_than_s3_takes_is_refused() -> None:
    parse_url(f"s3://bucket/root?tags={'n' * settings._TAG_NAME_MAX}={'v' * settings._TAG_VALUE_MAX}")
    for name, value in ((settings._TAG_NAME_MAX + 1, 1), (1, settings._TAG_VALUE_MAX + 1), (0, 1)):
        with pytest.raises(UsageError, match="is none that S3 takes"):
            parse_url(f"s3://bucket/root?tags={'n' * name}={'v' * value}")
