"""The LLM steps against a real vLLM server, on CPU, with a tiny model that has learned nothing."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import TINY

from medtune.config.chest_llm import EndpointConfig, LlmConfig, ServeConfig
from medtune.config.training import ModelConfig
from medtune.llm import serve
from medtune.llm.serve import served
from medtune.models.tiny import build_tiny
from medtune.runtime.tables import read_rows
from medtune.texts.items import ConversationItem, NamedBox, RationaleItem, ReportItem
from medtune.texts.prompt_files import FOLDER
from medtune.texts.run import run_step

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: make test-vllm installs it beside"
)
ARGUMENTS = ["--dtype=float32", "--max-model-len=4096", "--max-num-seqs=2", "--enforce-eager"]


def config(path: Path, **changes) -> LlmConfig:
    model = ServeConfig(path=str(path), arguments=ARGUMENTS, startup_timeout=400)
    place = EndpointConfig(serve=model, concurrency=2)
    return LlmConfig(model="tiny", endpoint=place, **({"max_tokens": 200} | changes))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A tiny VL model whose tokenizer knows the prompts."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    texts = [path.read_text() for path in sorted(FOLDER.iterdir())]
    build_tiny(folder, ModelConfig(family="qwen3_vl", builder="tiny", tiny=TINY), texts, 1)
    return folder


@needs_vllm
def test_a_real_server_is_started_asked_and_stopped(tiny, tmp_path, monkeypatch):
    from PIL import Image

    for name, value in (("CPU_KVCACHE_SPACE", "1"), ("CPU_OMP_THREADS_BIND", "nobind")):
        monkeypatch.setenv(f"VLLM_{name}", value)
    Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / "film.png")
    reports = [ReportItem(id=f"s/{n}", source="s", report=f"Heart {n}.") for n in (1, 2)]
    box = NamedBox(name="a", box=(1, 2, 3, 4))
    talk = [ConversationItem(id="s/1", source="s", regions=(box,))]
    trace = RationaleItem(
        id="s/1", source="s", image=tmp_path / "film.png", question="Well?", answer="Yes."
    )
    asked = {"filter": reports, "conversation_grounded": talk, "reasoning": [trace]}
    summaries, servers = {}, []
    popen = serve.subprocess.Popen
    monkeypatch.setattr(
        serve.subprocess, "Popen", lambda *a, **k: servers.append(popen(*a, **k)) or servers[-1]
    )
    asking = config(tiny, images="file")
    with served(asking, tmp_path / "vllm.log", media=tmp_path) as section:
        for step, own in asked.items():
            for turn in ("first", "again"):
                output, rejects = tmp_path / f"{step}.parquet", tmp_path / f"{step}.rejects.parquet"
                done = run_step(section, step, own, tmp_path / "cache", output, rejects)
                tables = (read_rows(output), read_rows(rejects))
                summaries[step, turn] = done, tables
    for step, own in asked.items():
        (first, tables), (again, same) = summaries[step, "first"], summaries[step, "again"]
        assert first.asked == again.from_cache >= len(own)
        assert (again.asked, again.tokens_in) == (0, 0)
        assert first.tokens_in > 100
        assert 0 < first.tokens_out <= 200 * first.asked
        assert first.done + first.rejected == len(own)
        assert tables == same
        # The schema holds: what was answered whole is JSON of the right form.
        assert {"json", "form"}.isdisjoint(first.reasons), tables
    assert servers[0].poll() is not None
    assert "Heart" not in (tmp_path / "vllm.log").read_text()
