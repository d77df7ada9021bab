"""Objects in an S3 bucket, Amazon's or one that speaks its language: settings and URL, the store, errors in our words.

The only room that imports aioboto3 (extra `s3`) besides the Kinesis transport; `store` does, what is here does not.
"""

from cutbank.objects.s3.settings import Place, S3Settings, parse_url

__all__ = ["Place", "S3Settings", "parse_url"]
