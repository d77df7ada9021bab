"""What S3 and its client answer, in our errors: taken already, not there, ask again, or somebody has to act.

Pure. Codes: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. What is not known is asked again where the
status is one of a server's fault, and refused where it is one of ours. No secret is repeated: of an answer only its
code and message are shown, which name users and keys' ids at most.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import aiohttp
from botocore import exceptions as client_errors

from cutbank.errors import AlreadyExists, CutbankError, ObjectMissing, StoreRefused, StoreUnavailable
from cutbank.objects.s3.settings import Place, S3Settings

MESSAGE_CHARACTERS_MAX = 400
"""As much of a store's own message is repeated."""


class Action(Enum):
    """What is done: the API's name of the call, and the IAM action that allows it."""

    CREATE = ("PutObject", "s3:PutObject")
    READ = ("GetObject", "s3:GetObject")
    LOOK = ("GetObject (first byte)", "s3:GetObject")
    LIST = ("ListObjectsV2", "s3:ListBucket")
    DELETE = ("DeleteObject", "s3:DeleteObject")
    OPEN = ("opening", "")

    @property
    def call(self) -> str:
        """As S3 calls it."""
        return self.value[0]

    @property
    def permission(self) -> str:
        """As IAM calls it."""
        return self.value[1]


TAKEN = frozenset({"PreconditionFailed"})
MISSING = frozenset({"NoSuchKey", "NoSuchVersion"})
CREDENTIALS = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired"}
)
"""Codes of credentials that have had their time: those that are renewed will do again."""
CLOCK = frozenset({"RequestTimeTooSkewed"})
PASSING = frozenset(
    {
        *("ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "IncompleteBody", "BadDigest"),
        *("XAmzContentSHA256Mismatch", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"),
        *("TooManyRequests", "QuotaExceeded", "BucketQuotaExceeded", "XMinioStorageFull", "KMS.ThrottlingException"),
    }
)
"""Codes of what passes, whatever their status."""
UNKNOWN_WHO = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "UnrecognizedClientException"}
)
WRONG_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
ARCHIVED = frozenset({"InvalidObjectState"})
NOT_KNOWN = frozenset({"NotImplemented", "MethodNotAllowed"})
_STATUS_CODES = {"404": "NoSuchKey", "412": "PreconditionFailed", "409": "ConditionalRequestConflict"}
"""Codes of answers without a body, which the client names by their status."""
_KMS = re.compile(r"\bkms:\w+")


@dataclass(frozen=True)
class Answer:
    """An error that S3 answered with."""

    code: str
    status: int
    message: str
    region: str
    """Where the bucket is, if it was said."""
    marker: bool
    """Whether a delete marker stands in the object's place."""

    @classmethod
    def of(cls, error: Any) -> "Answer":
        """From a ClientError."""
        response: dict[str, Any] = error.response
        about = response.get("Error", {})
        meta = response.get("ResponseMetadata", {})
        headers = meta.get("HTTPHeaders", {})
        code = str(about.get("Code", ""))
        message = " ".join(str(about.get("Message", "")).split())[:MESSAGE_CHARACTERS_MAX]
        region = str(headers.get("x-amz-bucket-region") or about.get("Region") or "")
        marker = headers.get("x-amz-delete-marker") == "true"
        return cls(_STATUS_CODES.get(code, code), int(meta.get("HTTPStatusCode", 0)), message, region, marker)

    @property
    def words(self) -> str:
        """For a message."""
        return f"{self.code or self.status}{': ' if self.message else ''}{self.message}"


class Translator:
    """Speaks of one place."""

    def __init__(self, place: Place, settings: S3Settings) -> None:
        self._place = place
        self._settings = settings

    def resource(self, action: Action) -> str:
        """What the permission has to be granted on."""
        region = self._settings.region or ""
        partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
        bucket = f"arn:{partition}:s3:::{self._place.bucket}"
        return bucket if action is Action.LIST else f"{bucket}/{self._place.prefix}*"

    def grant(self, action: Action) -> str:
        """What to do about a missing permission."""
        needed = action.permission
        if action is Action.CREATE and self._settings.tags:
            needed += " and s3:PutObjectTagging"
        advice = f"grant {needed} on {self.resource(action)} to whom these credentials belong"
        if action in (Action.READ, Action.LOOK):
            advice += (
                f", and s3:ListBucket on {self.resource(Action.LIST)}, without which a missing object is denied too"
            )
        return advice

    def answered(self, action: Action, key: str, answer: Answer) -> CutbankError:
        """Our error for S3's."""
        where = f"{self._place.url}: {action.call} of {key!r}" if key else f"{self._place.url}: {action.call}"
        code = answer.code
        if code in TAKEN:
            return AlreadyExists(f"{self._place.url}: {key} is there already")
        if code in MISSING:
            marker = " (a delete marker stands in its place: somebody deleted it)" if answer.marker else ""
            return ObjectMissing(f"{self._place.url}: no object {key}{marker}")
        if code in CREDENTIALS:
            return CredentialsExpired(
                f"{where}: the credentials have expired ({answer.words}): renew them; nothing is lost meanwhile"
            )
        if code in CLOCK:
            return CredentialsExpired(f"{where}: this machine's clock is wrong ({answer.words}): set it")
        if code in PASSING or (answer.status >= 500 and code not in NOT_KNOWN) or answer.status in (409, 429):  # HTTP's
            return StoreUnavailable(f"{where}: {answer.words}")
        return self._refused(where, action, answer)

    def _refused(self, where: str, action: Action, answer: Answer) -> StoreRefused:
        code, bucket = answer.code, self._place.bucket
        kms = _KMS.search(answer.message)
        if kms or code.startswith("KMS."):
            key = self._settings.kms_key or "the bucket's KMS key"
            needed = kms.group() if kms else "kms:GenerateDataKey and kms:Decrypt"
            advice = f"grant {needed} on {key} to whom these credentials belong, and see that the key is enabled"
        elif code in UNKNOWN_WHO:
            advice = "the store does not know these credentials: check the access key, its secret and the endpoint"
        elif code == "NoSuchBucket":
            advice = f"make the bucket {bucket}, or name another one in the URL"
        elif code in WRONG_REGION or answer.status in (301, 307):
            told = f" set region={answer.region} in the URL" if answer.region else " set region=… in the URL"
            asked = self._settings.region or "the default"
            advice = f"bucket {bucket} is not in the region that was asked ({asked}):{told}"
        elif code in ARCHIVED:
            advice = "it was moved to an archive class: restore it, and end the lifecycle rule that moves it"
        elif code in NOT_KNOWN and action is Action.CREATE:
            advice = (
                "the store does not know create-only puts (If-None-Match): use one that does; accept_overwrite=true in "
                "the URL goes on without, docs/s3.md says what that gives up"
            )
        elif answer.status == 403:  # HTTP's
            advice = f"bucket {bucket}: {self.grant(action)}"
        else:
            advice = f"bucket {bucket}: check the URL's parameters"
        return StoreRefused(f"{where} was refused ({answer.words}): {advice}")

    def failed(self, action: Action, key: str, error: BaseException) -> CutbankError | None:
        """Our error for one of the client's own; None: it is none of the world's faults."""
        where = f"{self._place.url}: {action.call}{f' of {key!r}' if key else ''}"
        why = " ".join((str(error) or type(error).__name__).split())[:MESSAGE_CHARACTERS_MAX]
        if isinstance(error, client_errors.NoCredentialsError):
            return no_credentials(self._place)
        if isinstance(error, _MIS_SET):
            return StoreRefused(f"{where}: {why}: check the profile, the environment and the URL's parameters")
        if isinstance(error, _CREDENTIALS_AWAY) or (isinstance(error, RuntimeError) and "credentials" in why.lower()):
            return CredentialsExpired(f"{where}: no valid credentials now: {why}")
        if isinstance(error, _CUT_OFF):
            return ConnectionLost(f"{where}: the connection was lost: {why}")
        if isinstance(error, (client_errors.BotoCoreError, aiohttp.ClientError, OSError)):
            return StoreUnavailable(f"{where}: {why}")
        return None


class CredentialsExpired(StoreUnavailable):
    """Credentials that have had their time, or a clock that is wrong: asked again, and said loudly."""


class ConnectionLost(StoreUnavailable):
    """The connection ended in the middle: a put may have been done, or refused with an answer that nobody read."""


_MIS_SET = (
    client_errors.ProfileNotFound,
    client_errors.PartialCredentialsError,
    client_errors.ConfigParseError,
    client_errors.ConfigNotFound,
    client_errors.InvalidConfigError,
    client_errors.InvalidRegionError,
    client_errors.NoRegionError,
    client_errors.UnauthorizedSSOTokenError,
    client_errors.SSOTokenLoadError,
    client_errors.ParamValidationError,
)
_CREDENTIALS_AWAY = (client_errors.CredentialRetrievalError, client_errors.MetadataRetrievalError)
_CUT_OFF = (
    client_errors.ConnectionClosedError,
    client_errors.EndpointConnectionError,
    client_errors.HTTPClientError,
    client_errors.ResponseStreamingError,
    client_errors.IncompleteReadError,
    aiohttp.ClientPayloadError,
    ConnectionError,
)


def no_credentials(place: Place) -> StoreRefused:
    """Nobody to sign requests."""
    return StoreRefused(
        f"{place.url}: no AWS credentials were found: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
        "or a role to the machine or pod"
    )
