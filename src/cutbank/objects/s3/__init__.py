"""Objects in an S3 bucket, Amazon's or one that speaks its language: settings and URL, the store, errors in our words.

The only room that imports aioboto3 (extra `s3`) besides the Kinesis transport.
"""

from cutbank.objects.s3.settings import Place, S3Settings, parse_url
from cutbank.objects.s3.store import S3Store

__all__ = ["Place", "S3Settings", "S3Store", "parse_url"]
