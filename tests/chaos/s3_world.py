"""A chaos run's world on S3: the same pipeline and checks, objects and snapshots in a bucket behind the fault proxy.

Owns names: everything lies below a folder of this world's own, so that one bucket serves a world after the other. The
services come through the proxy (object_servers.proxy), the run's own handles don't. Event-loop only.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote
from uuid import uuid4

from chaos.world import World
from object_servers.proxy import FaultProxy

TRY_MS = 1500
"""How long the services wait for one answer of the store: hanging is noticed after that."""

GRACE_MS = 200

HELD_BYTES_MAX = 4 << 20
"""What a sink may hold, the least that can be set."""

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(kw_only=True)
class S3World(World):
    """One pipeline, its log embedded, its objects in a bucket."""

    endpoint: str
    """Of the server itself."""
    bucket: str
    proxy: FaultProxy
    stretch_records_max: int = 40
    root: str = field(default_factory=lambda: f"chaos-{uuid4().hex[:12]}")
    """Of everything of this world's in the bucket."""
    state_folder: str = "state"

    def _url(self, folder: str, endpoint: str) -> str:
        query = f"endpoint={quote(endpoint, safe='')}&path_style=true&call_timeout_ms={2 * TRY_MS}"
        query += f"&connect_timeout_ms={TRY_MS}&read_timeout_ms={TRY_MS}"
        return f"s3://{self.bucket}/{self.root}/{folder}?{query}"

    @property
    def store_url(self) -> str:
        """Through the proxy."""
        return self._url("anomalies", self.proxy.url)

    @property
    def state_url(self) -> str:
        """Through the proxy."""
        return self._url(self.state_folder, self.proxy.url)

    @property
    def own_store_url(self) -> str:
        """Past the proxy."""
        return self._url("anomalies", self.endpoint)

    @property
    def own_state_url(self) -> str:
        """Past the proxy."""
        return self._url(self.state_folder, self.endpoint)

    def environment(self, *, client: str, flush_on_stop: bool) -> Mapping[str, str]:
        """With the credentials that this process has, and little memory for the sink."""
        return {
            **super().environment(client=client, flush_on_stop=flush_on_stop),
            **{name: os.environ[name] for name in CREDENTIALS if name in os.environ},
            "AWS_EC2_METADATA_DISABLED": "true",
            "CUTBANK_STRETCH_RECORDS_MAX": str(self.stretch_records_max),
            "CUTBANK_HELD_BYTES_MAX": str(HELD_BYTES_MAX),
        }
