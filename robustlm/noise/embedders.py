"""Embedders: turn texts into vectors for the distortion `robustlm.noise.distortion.LME`.

An embedder is plain data: it holds no client, model or key, so it can be part of configurations and checkpoints and be
sent to other processes. Vectors that cost time or money are stored on disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustlm.endpoint import Endpoint, EndpointError, opened
from robustlm.utils.errors import UserError

Vectors = NDArray[np.float32]
DEFAULT_CACHE = "~/.cache/robustlm/embeddings"


class EmbeddingError(UserError):
    """Embeddings are not available: a package, key or endpoint is missing, or an answer is invalid."""


@dataclass
class Embedder(ABC):
    """Turns texts into vectors. Subclasses define `compute` and `key`."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Identifies everything besides the text that the vectors depend on; never contains a secret."""

    @abstractmethod
    def compute(self, texts: list[str]) -> ArrayLike:
        """Embed distinct texts: `[n, d]`, in their order."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, each distinct one once.

        Args:
            texts: n texts, which may repeat.

        Returns:
            `[n, d]` float32; `[0, 0]` for no texts.

        Raises:
            EmbeddingError: There are no usable vectors; the message says what to do.
        """
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        return self._vectors(list(places))[[places[text] for text in texts]]

    def _vectors(self, texts: list[str]) -> Vectors:
        """Compute, and check that there is one finite vector for each text."""
        try:
            vectors = np.asarray(self.compute(texts), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EmbeddingError(f"{self.key}: vectors of different lengths or of no numbers") from error
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.size:
            raise EmbeddingError(
                f"{self.key}: expected a vector for each of {len(texts)} texts, found shape {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            raise EmbeddingError(f"{self.key}: found infinite or undefined numbers in the vectors")
        return vectors


@dataclass
class CachedEmbedder(Embedder):
    """An embedder whose vectors are kept on disk, batch by batch: an interrupted run loses at most one batch."""

    batch_size: int = 256
    """Texts embedded at once."""
    cache_dir: str | None = DEFAULT_CACHE
    """Folder where vectors are kept, by embedder key and a hash of the text; null or empty: not kept."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"embedder.batch_size: expected 1 or more, found {self.batch_size}")

    def _vectors(self, texts: list[str]) -> Vectors:
        cache = VectorCache(self.cache_dir, self.key) if self.cache_dir else None
        found = cache.get(texts) if cache else {}
        missing = [text for text in texts if text not in found]
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            vectors = super()._vectors(batch)
            if cache:
                cache.put(batch, vectors)
            found.update(zip(batch, vectors, strict=True))
        lengths = {len(vector) for vector in found.values()}
        if len(lengths) > 1:
            where = f"; has the model changed? Remove {cache.path}" if cache else ""
            raise EmbeddingError(f"{self.key}: found vectors of {sorted(lengths)} dimensions{where}")
        return np.stack([found[text] for text in texts])


class VectorCache:
    """Vectors in an SQLite file, which many processes may read and write at once.

    Args:
        folder: Where the file is; `~` is the home folder, and missing folders are made.
        key: The embedder's key.
    """

    def __init__(self, folder: str, key: str) -> None:
        self.path = Path(folder).expanduser() / "embeddings.sqlite3"
        self._key = key

    def get(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """Look up texts; texts without a stored vector are left out."""
        query = "SELECT vector FROM vectors WHERE embedder = ? AND text = ?"
        found = {}
        with self._open() as connection:
            for text in texts:
                row = connection.execute(query, (self._key, _text_hash(text))).fetchone()
                if row:
                    found[text] = np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        return found

    def put(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Store the vectors `[n, d]` of n texts: all of them or, if interrupted, none."""
        rows = [
            (self._key, _text_hash(text), vector.astype("<f4").tobytes())
            for text, vector in zip(texts, vectors, strict=True)
        ]
        with self._open() as connection:
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        table = "vectors (embedder TEXT, text BLOB, vector BLOB, PRIMARY KEY (embedder, text))"
        try:
            with opened(self.path, table) as connection:
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise EmbeddingError(
                f"{self.path}: cannot keep embeddings there ({error}); remove the file, or set the "
                "embedder's cache_dir to another folder or to null"
            ) from error


def _text_hash(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclass
class OpenAIEmbedder(CachedEmbedder):
    """Embeddings of an OpenAI-compatible endpoint, `POST {base_url}/embeddings`.

    The key is read from the environment at each request and is not stored. Requests with the status 408, 409, 429 or
    5xx and lost connections are tried again. The wait doubles from half a second to eight, unless the endpoint asks for
    another.
    """

    model: str = "text-embedding-3-large"
    """The model's name at the endpoint."""
    base_url: str | None = None
    """The endpoint, up to `/v1`; null: `$OPENAI_BASE_URL`, else OpenAI's."""
    max_retries: int = 5
    """How often a failed request is tried again."""
    timeout: float = 60.0
    """Seconds that a request may take."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; not the key."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._endpoint()

    @property
    def key(self) -> str:
        """Endpoint and model."""
        return self._endpoint().key

    def _endpoint(self) -> Endpoint:
        return Endpoint(
            model=self.model,
            base_url=self.base_url,
            max_retries=self.max_retries,
            timeout=self.timeout,
            api_key_env=self.api_key_env,
            settings="embedder.",
            kind="an embeddings endpoint",
        )

    def compute(self, texts: list[str]) -> ArrayLike:
        """Embed one batch of texts by the endpoint."""
        # the endpoint rejects empty texts and unpaired surrogates
        inputs = [text.encode("utf-8", "replace").decode() or " " for text in texts]

        def ask(client: Any) -> list[Any]:
            return _in_order(client.embeddings.create(model=self.model, input=inputs).data, len(texts))

        try:
            return self._endpoint().call(ask)
        except EndpointError as error:
            raise EmbeddingError(str(error)) from None


def _in_order(data: list[Any], n: int) -> list[Any]:
    """Sort the vectors of an answer by their `index`."""
    if sorted(item.index for item in data) != list(range(n)):
        raise ValueError(f"expected vectors 0 to {n - 1}, found {len(data)}")
    return [item.embedding for item in sorted(data, key=lambda item: int(item.index))]


@dataclass
class SentenceTransformerEmbedder(CachedEmbedder):
    """Embeddings of a sentence-transformers model that runs on this machine."""

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Name on the Hugging Face hub, or a folder."""
    device: str | None = None
    """`cpu`, `cuda`, …; null: the library's choice."""

    @property
    def key(self) -> str:
        """The model's name."""
        return f"sentence-transformers {self.model}"

    def compute(self, texts: list[str]) -> ArrayLike:
        """Run the model on one batch."""
        model = _sentence_transformer(self.model, self.device)
        vectors: ArrayLike = model.encode(
            texts, batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors


@lru_cache(maxsize=1)
def _sentence_transformer(name: str, device: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise EmbeddingError(
            f"sentence-transformers {name}: {error}; pip install 'robustlm[sentence-transformers]'"
        ) from None
    return SentenceTransformer(name, device=device)


_UNBOUND = (
    "not bound to a model. It works where a model is trained; elsewhere call bind(fn), or choose OpenAIEmbedder, "
    "SentenceTransformerEmbedder or the distortion RBE"
)


@dataclass
class StateEmbedder(CachedEmbedder):
    """Mean hidden state of the tuned model itself; depends on word order, needs no network and no other model.

    The datamodule binds it to the base model without adapters, prefixes or soft prompts. So vectors stay the same while
    these are tuned, and are stored on disk. If all weights are tuned, vectors come from the weights at the start of an
    epoch and are not stored.
    """

    layer: int | Literal["middle", "last"] = "middle"
    """Layer whose states are used: `middle` (half of the layers), `last` (after the last norm), or a number: 0 is the
    embeddings."""

    @property
    def key(self) -> str:
        """The model's name and weights, and the layer."""
        name = vars(self)["_name"]() if "_name" in vars(self) else None
        return f"states of {name or 'a model that changes'}, layer {self.layer}"

    def bind(self, embed: Callable[[list[str]], ArrayLike], name: Callable[[], str | None]) -> None:
        """Set the function that turns texts into vectors `[n, H]`.

        Args:
            embed: The function; it gets at most `batch_size` texts.
            name: Returns a name that identifies the model and its weights; None if they change, so that vectors are not
                stored.
        """
        vars(self).update(_embed=embed, _name=name)

    def _vectors(self, texts: list[str]) -> Vectors:
        if "_name" in vars(self) and vars(self)["_name"]():
            return super()._vectors(texts)
        starts = range(0, len(texts), self.batch_size)
        return np.concatenate([Embedder._vectors(self, texts[at : at + self.batch_size]) for at in starts])

    def compute(self, texts: list[str]) -> ArrayLike:
        """Call the bound function."""
        # not an attribute before `bind`: jsonargparse reads attributes of a default instance as options
        embed: Callable[[list[str]], ArrayLike] | None = vars(self).get("_embed")
        if embed is None:
            raise EmbeddingError(f"states: {_UNBOUND}")
        return embed(texts)


@dataclass
class TokenEmbedder(Embedder):
    """Mean token embedding of the tuned model itself; does not depend on word order.

    The datamodule binds it to the model. Its vectors are not stored on disk, because each takes only a look-up.
    """

    @property
    def key(self) -> str:
        """A constant: there is one tuned model in a run."""
        return "token-embedding"

    def bind(self, embed: Callable[[list[str]], ArrayLike]) -> None:
        """Set the function that turns texts into vectors `[n, d]`."""
        vars(self)["_embed"] = embed

    def compute(self, texts: list[str]) -> ArrayLike:
        """Call the bound function."""
        # not an attribute before `bind`: jsonargparse reads attributes of a default instance as options
        embed: Callable[[list[str]], ArrayLike] | None = vars(self).get("_embed")
        if embed is None:
            raise EmbeddingError(f"token-embedding: {_UNBOUND}")
        return embed(texts)
