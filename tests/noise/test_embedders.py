"""Embedders: the OpenAI protocol against a local server, the cache across restarts, keys that never show."""

import base64
import copy
import dataclasses
import logging
import multiprocessing
import pickle
import sqlite3
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from robustlm.noise import embedders
from robustlm.noise.embedders import (
    EmbeddingError,
    OpenAIEmbedder,
    SentenceTransformerEmbedder,
    TokenEmbedder,
    VectorCache,
)
from tests.endpoint import SECRET, Answer, LocalEndpoint, fail


def vector_of(text: str) -> list[float]:
    return [float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


def embeddings(request: dict[str, Any]) -> tuple[int, Any]:
    data = []
    for index, text in enumerate(request["input"]):
        vector: Any = vector_of(text)
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return 200, {"object": "list", "data": data, "model": request["model"], "usage": usage}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEndpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = LocalEndpoint(embeddings)
    yield running
    running.close()


@pytest.fixture
def make(endpoint: LocalEndpoint, tmp_path: Path) -> Callable[..., OpenAIEmbedder]:
    def build(**changes: Any) -> OpenAIEmbedder:
        settings = {"base_url": endpoint.url, "cache_dir": str(tmp_path), "max_retries": 2, "timeout": 5.0}
        return OpenAIEmbedder(**{**settings, **changes})

    return build


Make = Callable[..., OpenAIEmbedder]


def test_speaks_the_protocol(endpoint: LocalEndpoint, make: Make) -> None:
    vectors = make().embed(["ab", "c", "ab"])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [vector_of("ab"), vector_of("c"), vector_of("ab")]
    [request] = endpoint.requests
    assert request["path"] == "/v1/embeddings"
    assert request["model"] == "text-embedding-3-large"
    assert request["input"] == ["ab", "c"], "duplicates are asked once"
    assert request["encoding_format"] == "base64"
    assert endpoint.headers[0]["authorization"] == f"Bearer {SECRET}"


def test_batches_and_order(endpoint: LocalEndpoint, make: Make) -> None:
    def reversed_data(request: dict[str, Any]) -> tuple[int, Any]:
        status, body = embeddings(request)
        body["data"].reverse()
        return status, body

    endpoint.answers = [reversed_data]
    texts = [f"text {i}" * i for i in range(1, 8)]
    assert make(batch_size=3).embed(texts).tolist() == [vector_of(text) for text in texts]
    assert [len(request["input"]) for request in endpoint.requests] == [3, 3, 1]


def test_cache_survives_a_restart_and_is_kept_by_model(endpoint: LocalEndpoint, make: Make) -> None:
    first = make().embed(["a", "bb"])
    again = make().embed(["bb", "a", "ccc"])
    assert again[[1, 0]].tolist() == first.tolist()
    assert [request["input"] for request in endpoint.requests] == [["a", "bb"], ["ccc"]]
    make(model="other").embed(["a"])
    make(cache_dir=None).embed(["a"])
    assert len(endpoint.requests) == 4


def test_cached_vectors_need_no_key(endpoint: LocalEndpoint, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make().embed(["a"])
    monkeypatch.delenv("OPENAI_API_KEY")
    assert make().embed(["a"]).tolist() == [vector_of("a")]
    with pytest.raises(EmbeddingError, match="set the environment variable OPENAI_API_KEY"):
        make().embed(["b"])


def test_finished_batches_are_kept_when_a_later_one_fails(endpoint: LocalEndpoint, make: Make) -> None:
    endpoint.answers = [embeddings, fail(400)]
    with pytest.raises(EmbeddingError, match="HTTP 400"):
        make(batch_size=1).embed(["a", "b"])
    make(batch_size=1).embed(["a", "b"])
    assert [request["input"] for request in endpoint.requests] == [["a"], ["b"], ["b"]]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_tries_again(endpoint: LocalEndpoint, make: Make, status: int) -> None:
    endpoint.answers = [fail(status), fail(status)]
    assert make().embed(["a"]).tolist() == [vector_of("a")]
    assert len(endpoint.requests) == 3


def test_gives_up_after_the_retries(endpoint: LocalEndpoint, make: Make) -> None:
    endpoint.answers = [fail(500, f"crashed on {SECRET}")] * 9
    with pytest.raises(EmbeddingError, match=r"failed \(HTTP 500\) after 2 retries: .*crashed on \*\*\*") as caught:
        make().embed(["a"])
    assert len(endpoint.requests) == 3
    assert caught.value.__suppress_context__


def without(field: str) -> Answer:
    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        status, body = embeddings(request)
        for item in body["data"]:
            del item[field]
        return status, body

    return answer


def with_vectors(*vectors: Any) -> Answer:
    data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return lambda request: (200, {"data": data})


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: (200, "<html>welcome</html>"),
        lambda request: (200, {"data": []}),
        lambda request: (200, {}),
        lambda request: (200, []),
        lambda request: (200, None),
        without("embedding"),
        without("index"),
        with_vectors([1.0, 2.0]),
        with_vectors([1.0], [2.0], [3.0]),
        with_vectors([1.0], [2.0, 3.0]),
        with_vectors([], []),
        with_vectors(["x"], ["y"]),
        with_vectors("AAAA", "AAA"),
        with_vectors([float("nan")], [1.0]),
        with_vectors([[1.0]], [[1.0]]),
        with_vectors(None, [1.0]),
    ],
)
def test_malformed_answers_are_errors_and_not_cached(endpoint: LocalEndpoint, make: Make, answer: Answer) -> None:
    endpoint.answers = [answer]
    with pytest.raises(EmbeddingError, match=f"^{endpoint.url} text-embedding-3-large: "):
        make().embed(["a", "b"])
    assert make().embed(["a", "b"]).tolist() == [vector_of("a"), vector_of("b")]
    assert len(endpoint.requests) == 2


def test_a_refused_key_is_named_by_its_variable(endpoint: LocalEndpoint, make: Make) -> None:
    endpoint.answers = [fail(401, f"Incorrect API key provided: {SECRET}")]
    with pytest.raises(EmbeddingError, match=r"refused the key in \$OPENAI_API_KEY \(HTTP 401\)$"):
        make().embed(["a"])


def test_unreachable_and_silent_endpoints(make: Make, endpoint: LocalEndpoint) -> None:
    with pytest.raises(EmbeddingError, match=r"cannot reach the endpoint; check embedder\.base_url"):
        make(base_url="http://127.0.0.1:9/v1", max_retries=0).embed(["a"])
    silence = threading.Event()
    endpoint.answers = [lambda request: (200 + silence.wait(2), {})]
    with pytest.raises(EmbeddingError, match=r"no answer in 0\.2 s, 0 retries; raise embedder\.timeout"):
        make(timeout=0.2, max_retries=0).embed(["a"])
    silence.set()


def test_the_key_shows_nowhere(endpoint: LocalEndpoint, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    embedder = make()
    with caplog.at_level(logging.DEBUG):
        embedder.embed(["a"])
    shown = [
        caplog.text,
        repr(embedder),
        str(dataclasses.asdict(embedder)),
        str(vars(embedder)),
        embedder.key,
    ]
    assert not any(SECRET in text for text in shown)
    assert SECRET.encode() not in pickle.dumps(embedder)
    assert copy.deepcopy(embedder) == embedder
    database = Path(str(embedder.cache_dir)) / "embeddings.sqlite3"
    assert SECRET.encode() not in database.read_bytes()


def test_any_text_can_be_asked_for(endpoint: LocalEndpoint, make: Make) -> None:
    assert make().embed(["", "\ud800", "é\n"]).shape == (3, 3)
    assert endpoint.requests[0]["input"] == [" ", "?", "é\n"]
    assert make().embed([]).shape == (0, 0)


def test_odd_keys_and_settings(make: Make, monkeypatch: pytest.MonkeyPatch, endpoint: LocalEndpoint) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n")
    make().embed(["a"])
    assert endpoint.headers[0]["authorization"] == f"Bearer {SECRET}"
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}é")
    with pytest.raises(EmbeddingError, match="characters that no key has") as caught:
        make().embed(["b"])
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("OTHER", "word")
    make(api_key_env="OTHER").embed(["b"])
    for settings, message in [
        ({"batch_size": 0}, r"embedder\.batch_size: .* found 0"),
        ({"max_retries": -1}, r"embedder\.max_retries: .* found -1"),
        ({"timeout": 0}, r"embedder\.timeout: found 0"),
        ({"base_url": f"https://me:{SECRET}@host/v1"}, r"embedder\.base_url: found credentials"),
        ({"api_key_env": SECRET}, r"embedder\.api_key_env: expected the name"),
    ]:
        with pytest.raises(ValueError, match=message) as refused:
            make(**settings)
        assert SECRET not in str(refused.value)


def test_base_url_from_the_environment(endpoint: LocalEndpoint, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenAIEmbedder().key.startswith("https://api.openai.com/v1 ")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{endpoint.url}/")
    make(base_url=None).embed(["a"])
    make().embed(["a"])
    assert len(endpoint.requests) == 1, "the same endpoint shares the cache"


def test_missing_client_says_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(EmbeddingError, match=r"pip install 'robustlm\[openai\]'"):
        make().embed(["a"])


def test_a_model_that_changed_its_size_is_noticed(endpoint: LocalEndpoint, make: Make) -> None:
    endpoint.answers = [with_vectors([1.0, 2.0])]
    make().embed(["a"])
    with pytest.raises(EmbeddingError, match=r"found vectors of \[2, 3\] dimensions; has the model changed\? Remove"):
        make().embed(["a", "b"])


def fill(folder: str, start: int) -> None:
    cache = VectorCache(folder, "key")
    for i in range(start, start + 30):
        cache.put([f"text {i}"], np.full((1, 4), i, dtype=np.float32))
        cache.get([f"text {start}"])


def test_many_processes_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=fill, args=(str(tmp_path), 20 * n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    found = VectorCache(str(tmp_path), "key").get([f"text {i}" for i in range(100)])
    assert {text: vector[0] for text, vector in found.items()} == {f"text {i}": i for i in range(90)}
    assert not VectorCache(str(tmp_path), "other key").get(["text 1"])


def test_a_broken_cache_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "embeddings.sqlite3").write_text("this is no database, but long enough to be taken for one" * 99)
    with pytest.raises(EmbeddingError, match="remove the file, or set the embedder's cache_dir"):
        VectorCache(str(tmp_path), "key").get(["a"])
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddingError, match="cannot keep embeddings there"):
        VectorCache(str(tmp_path / "file" / "folder"), "key").get(["a"])


def interrupted(cache: VectorCache) -> None:
    with cache._open() as connection:
        connection.execute("INSERT INTO vectors VALUES ('key', 'x', 'y')")
        raise sqlite3.OperationalError("power cut")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    cache = VectorCache(str(tmp_path), "key")
    with pytest.raises(EmbeddingError, match="power cut"):
        interrupted(cache)
    with cache._open() as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchone() == (0,)


class FakeModel:
    loaded: ClassVar[list[tuple[str, str | None]]] = []

    def __init__(self, name: str, device: str | None = None) -> None:
        self.loaded.append((name, device))

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        return np.asarray([vector_of(text) for text in texts])


def test_sentence_transformer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    embedders._sentence_transformer.cache_clear()
    fake = types.SimpleNamespace(SentenceTransformer=FakeModel)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    for _ in range(2):
        embedder = SentenceTransformerEmbedder(model="tiny", device="cpu", batch_size=2, cache_dir=str(tmp_path))
        assert embedder.embed(["a", "b", "cc"]).tolist() == [vector_of("a"), vector_of("b"), vector_of("cc")]
    assert FakeModel.loaded == [("tiny", "cpu")]
    embedders._sentence_transformer.cache_clear()


def test_missing_sentence_transformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EmbeddingError, match=r"pip install 'robustlm\[sentence-transformers\]'"):
        SentenceTransformerEmbedder(model="none", cache_dir=None).embed(["a"])


def test_token_embedder_is_bound_later() -> None:
    embedder = TokenEmbedder()
    with pytest.raises(EmbeddingError, match="not bound to a model"):
        embedder.embed(["a"])
    embedder.bind(lambda texts: [vector_of(text) for text in texts])
    assert embedder.embed(["a", "a"]).tolist() == [vector_of("a")] * 2
    embedder.bind(lambda texts: [[1.0]] * 3)
    with pytest.raises(EmbeddingError, match=r"expected a vector for each of 1 texts, found shape \(3, 1\)"):
        embedder.embed(["a"])
