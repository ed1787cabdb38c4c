"""What the adapters of all AWS services share: the client of aiobotocore, its settings, and what its errors mean."""

import contextlib
from typing import Any, ClassVar, Self

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.loaders import Loader

from examples.common.client import PATIENCE, Client
from examples.servers import split_url
from omnitck.shared.exceptions import PermissionDeniedError

__all__ = ["DENIED", "AWSClient", "code_of", "status_of"]

REGION = "us-east-1"

NEVER = 60
"""Seconds: aiobotocore insists on time limits of its own; `Client` has the one that counts."""

DENIED = {
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
    "403",
}
"""Codes that mean that the credentials do not suffice."""

_loader = Loader()
"""Of the services' descriptions: read once a process, since reading them takes a quarter of a second."""


class AWSClient(Client):
    """One client of one service; connections are opened when they are needed."""

    service: ClassVar[str]
    """Its name in botocore."""

    _unavailable = (OSError, TimeoutError, BotoCoreError, ClientError, HTTPClientError, aiohttp.ClientError)

    def __init__(self, client: Any, stack: contextlib.AsyncExitStack, patience: float = PATIENCE) -> None:
        super().__init__(patience)
        self._aws = client
        self._stack = stack

    @classmethod
    async def open(cls, url: str, *args: Any, connections: int = 16, config: AioConfig | None = None, **options: Any) -> Self:
        """A client of the endpoint in *url*, which holds the access key as the user and the secret key as the password."""
        endpoint, access_key, secret_key = split_url(url)
        # No retries: a request whose reply was lost may have been carried out. Who may repeat it knows so.
        settings = AioConfig(
            connect_timeout=NEVER,
            read_timeout=NEVER,
            max_pool_connections=connections,
            retries={"total_max_attempts": 1},
            parameter_validation=False,  # the adapters check their arguments
            user_agent="omnitck-examples",  # put together anew for each request otherwise, in a tenth of its time
        )
        session = AioSession()
        session.register_component("data_loader", _loader)
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                session.create_client(
                    cls.service,
                    region_name=REGION,
                    endpoint_url=endpoint,
                    # Without TLS there is nothing to verify, and each client would read all authorities' certificates for that.
                    verify=False if endpoint.startswith("http:") else None,
                    aws_access_key_id=access_key,
                    aws_secret_access_key=secret_key,
                    config=settings.merge(config) if config else settings,
                )
            )
            return cls(client, stack.pop_all(), *args, **options)
        raise AssertionError  # the stack swallows nothing

    async def _request(self, what: str, operation: str, **arguments: Any) -> Any:
        """The answer to one request: *operation* is the method of aiobotocore's client."""
        return await self._call(what, self._perform(operation, **arguments))

    async def _perform(self, operation: str, **arguments: Any) -> Any:
        """The same within a `_call`; a refusal of the credentials is told apart from a failure."""
        try:
            return await getattr(self._aws, operation)(**arguments)
        except ClientError as error:
            if code_of(error) in DENIED:
                raise PermissionDeniedError("the backend refused the credentials") from error
            raise

    async def _release(self) -> None:
        await self._stack.aclose()


def code_of(error: BaseException | None) -> str:
    """The service's word for *error*; empty if it is not one of the service's."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: BaseException | None) -> int:
    """The HTTP status that came with *error*, or 0."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(error, ClientError) else 0
