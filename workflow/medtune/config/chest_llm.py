"""Sections about the language model that writes texts for the data set, and how it is reached."""

from collections.abc import Iterator
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, field_validator

from medtune.config.base import (
    Count,
    Fault,
    Fraction,
    NonNegative,
    Positive,
    RefusedValueError,
    Section,
)


class ServeConfig(Section):
    """A local vLLM server that is started for a step and stopped after it."""

    path: str = Field(description="Model folder.")
    arguments: list[str] = Field(
        [], description="Further arguments of `vllm serve`, e.g. `--tensor-parallel-size=4`."
    )
    startup_timeout: Positive = Field(1800, description="Longest wait until it is healthy.")


class PriceConfig(Section):
    """What tokens cost, for the account at the end."""

    input: NonNegative = Field(description="Price of a million tokens that are sent.")
    output: NonNegative = Field(description="Price of a million tokens that come back.")
    currency: str = Field("USD", description="Of the prices.")


class EndpointConfig(Section):
    """How the model is reached; none of this changes what is asked."""

    kind: Literal["openai", "azure"] = Field(
        "openai", description="openai: any endpoint that speaks its chat protocol."
    )
    base_url: str | None = Field(
        None,
        description="openai: up to and with `/v1`; azure: `https://NAME.openai.azure.com`; null: "
        "the server of `serve`.",
    )
    serve: ServeConfig | None = Field(None, description="A local vLLM server to start.")
    deployment: str | None = Field(None, description="azure: name of the deployment.")
    api_version: str | None = Field(None, description="azure: `api-version` of the requests.")
    key_env: str | None = Field(
        None, description="Environment variable that holds the key; null: no key is sent."
    )
    allow_remote: list[str] = Field(
        [],
        description="Names of the sources whose texts and images may leave this machine. Data "
        "under a use agreement may not, unless the agreement says so.",
    )
    concurrency: Count = Field(8, description="Requests of one process that are under way at once.")
    requests_per_minute: Positive | None = Field(
        None,
        description="Of one process: jobs that run at once take as many each, so divide an "
        "account's limit by their number. Null: as fast as answered.",
    )
    request_timeout: Positive = Field(300, description="Longest time for one request.")
    total_timeout: Positive = Field(
        1800, description="Longest time for one question with all its requests and pauses."
    )
    retries: NonNegativeInt = Field(
        6, description="Further requests after a time-out, a full queue or a failure of the server."
    )
    backoff_seconds: Positive = Field(
        1, description="First pause before a further request; it doubles from one to the next."
    )
    backoff_cap_seconds: Positive = Field(60, description="Longest such pause.")
    prices: PriceConfig | None = Field(None, description="Null: no cost is given.")

    @field_validator("base_url")
    @classmethod
    def _is_plain(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://localhost")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RefusedValueError("names no host", "begin with http:// or https:// and a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise RefusedValueError("may hold no user, password, query or fragment", "see key_env")
        return url

    def faults(self) -> Iterator[Fault]:
        """Yield what is missing or too much."""
        if (self.base_url is None) == (self.serve is None):
            found = "there are both, or neither, of base_url and serve"
            yield Fault(("base_url", "serve"), found, "give either base_url or serve")
        needed = ("base_url", "deployment", "api_version", "key_env")
        if self.kind == "azure" and (missing := [key for key in needed if not getattr(self, key)]):
            found = f"azure needs {', '.join(needed)}"
            yield Fault(("kind", *missing), found, f"add {', '.join(missing)}")


class LlmConfig(Section):
    """A language model and how it is asked; a change of it asks again."""

    model: str = Field(
        description="Name by which the endpoint knows the model. Its answers are kept by this "
        "name: give other weights another."
    )
    temperature: NonNegative | None = Field(0.7, description="Null: the endpoint's default.")
    top_p: Fraction | None = Field(None, description="Null: the endpoint's default.")
    max_tokens: Count = Field(4096, description="Longest answer in tokens.")
    structured_output: bool = Field(
        True, description="Ask for the JSON schema by `response_format`, where it is understood."
    )
    reasks: NonNegativeInt = Field(
        2, description="How often a refused answer is asked for again, with the reasons."
    )
    images: Literal["data", "file"] = Field(
        "data",
        description="How images are sent: in the request, or by a path that a local vLLM server "
        "may read (`--allowed-local-media-path`).",
    )
    endpoint: EndpointConfig = Field(description="How it is reached.")

    def at(self, base_url: str) -> Self:
        """Return this configuration with the address of the server that was started."""
        endpoint = self.endpoint.model_copy(update={"base_url": base_url})
        return self.model_copy(update={"endpoint": endpoint})
