"""Text of a model stays text, paths stay within the outputs, nothing foreign is run, no key is shown."""

from __future__ import annotations

import ast
import http.server
import json
import os
import threading
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from samples import profile_of

from kdutils import spec
from kdutils.compute import Compute
from kdutils.data import model_files
from kdutils.io import disk, text_safety
from kdutils.report import executor, html_tables, index, notebook_api, notebook_parameters, render
from kdutils.report.render import Result
from kdutils.runs import store

PACKAGE = Path(__file__).parents[2] / "kdutils"
HOSTILE = (
    "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'><svg onload=pwned()>"
    "[click](javascript:pwned) ![p](http://127.0.0.1/p.png) </td></table><!-- navigation -->"
    "<iframe srcdoc='x'></iframe>\x1b[31mred\x00\u202etxt.exe\u202c&lt;b&gt;"
)


def page_of(*outputs: dict, **options) -> str:
    """The page of a notebook whose one code cell has these outputs."""
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.from_dict(output) for output in outputs])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# What is it?"), cell])
    results = [Result(name="01_effectiveness", status="done")]
    options = {"facts": {"Parameters": HOSTILE}, "failed": False} | options
    return render.to_html(notebook, name="01_effectiveness", results=results, **options)


def display(data: dict, **metadata) -> dict:
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def is_harmless(html: str) -> bool:
    """Whether nothing in a page runs, loads or leads to another scheme than the web's."""
    soup = BeautifulSoup(html, "html.parser")
    assert not soup(["script", "iframe", "svg", "object", "embed", "form", "base", "link"])
    assert [tag.get("http-equiv") for tag in soup("meta")] == [None, "Content-Security-Policy", None]
    for element in soup(True):
        assert not [name for name in element.attrs if name.startswith("on")], element
        assert not str(element.get("href", "")).lower().startswith(("javascript:", "data:", "vbscript:"))
        assert str(element.get("src", "data:image/")).startswith("data:image/")
    return "\0" not in html


# --- text of a model ---------------------------------------------------------------------------------------


def test_a_generation_stays_text_in_a_table():
    frame = pd.DataFrame({"KD student": [HOSTILE], HOSTILE: ["x"]})
    html = html_tables.to_html(frame, caption=f"Texts {HOSTILE}")
    page = page_of(display({"text/html": html}))
    assert is_harmless(page)
    cell = BeautifulSoup(page, "html.parser").select_one("tbody th")
    assert cell.get_text() == text_safety.visible(HOSTILE)
    assert "␛[31mred␀\\u202etxt.exe" in cell.get_text()


def test_a_generation_stays_text_in_remark_figure_stream_and_traceback(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(notebook_api, "display", lambda data, **options: shown.append((data, options)))
    run = notebook_api.Report("01_effectiveness", {}, tmp_path, changed={})
    run.remark(f"The student wrote *{HOSTILE}*")
    fig, ax = notebook_api.plt.subplots(figsize=(2, 1))
    ax.plot([1, 2])
    run.figure(fig, "gain", alt=f"9 {HOSTILE}", data=pd.DataFrame({"x": [1]}), caption=HOSTILE)
    (remark, _), (image, of_image), (caption, _) = shown
    outputs = [
        display({"text/markdown": remark.data}),
        display(image, **of_image["metadata"]),
        display(caption),
        display({"text/plain": HOSTILE}),
        {"output_type": "stream", "name": "stdout", "text": HOSTILE},
        {"output_type": "error", "ename": "E", "evalue": HOSTILE, "traceback": [HOSTILE]},
    ]
    page = page_of(*outputs, failed=True)
    assert is_harmless(page)
    soup = BeautifulSoup(page, "html.parser")
    text = soup.main.get_text()
    assert text.count("<script>window.pwned = 1</script>") >= 5
    assert "[click](javascript:pwned)" in text
    assert not soup.main.find_all("a", string="click")
    assert soup.find("img")["alt"] == f"9 {text_safety.visible(HOSTILE)}"


def test_a_claim_an_error_and_a_figure_stay_text_in_the_index(tmp_path):
    claim = dict.fromkeys(("estimate", "ci_low", "ci_high", "p_value", "n", "paper_value"))
    claim |= {
        "id": HOSTILE,
        "section": "02",
        "statement": HOSTILE,
        "verdict": "not_testable",
        "reason": HOSTILE,
    }
    claim |= {"source": "live", "protocol": "careful", "decoding": "greedy", "analysis": "authors"}
    failed = Result(name="01_effectiveness", status="failed", error=HOSTILE, changed={"x": HOSTILE})
    said = {"01_effectiveness": [f"It wrote {HOSTILE}"]}
    html = index.index_html(
        profile_of("01_effectiveness"), [failed], [claim], [], {"data": {"a": HOSTILE}}, conclusions=said
    )
    assert is_harmless(html.replace("\0", ""))
    [sentence] = BeautifulSoup(html, "html.parser").select(".says > li")
    assert (
        sentence.get_text().startswith("It wrote ")
        and "<script>window.pwned = 1</script>" in sentence.get_text()
    )


@pytest.mark.parametrize(
    "markup",
    [
        "<meta http-equiv='refresh' content='0;url=http://127.0.0.1/'>",
        "<IMG SRC=x OnError=pwned()>",
        "<a href='java\nscript:pwned()'>x</a>",
        "<a href='&#106;avascript:pwned()'>x</a>",
        "<a href='data:text/html,x'>x</a>",
        "<img/src='http://127.0.0.1/x'/onerror=pwned()>",
        "<form action=http://127.0.0.1><button formaction=javascript:pwned()>x</button></form>",
        "<video src=http://127.0.0.1/v poster=http://127.0.0.1/p></video>",
        "<base href=http://127.0.0.1/>",
        "<p style='x' onmouseover='pwned()'>x</p>",
        "<details open ontoggle=pwned()>x</details>",
    ],
)
@pytest.mark.parametrize("kind", ["text/html", "text/markdown"])
def test_what_a_library_displays_is_disarmed(markup, kind):
    """The second line of defence, for what was not escaped where it was made."""
    assert is_harmless(page_of(display({kind: f"<p>kept</p>{markup}"})))


class _Server(http.server.ThreadingHTTPServer):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *message: object) -> None:
        """Not on stderr."""


@pytest.fixture
def server():
    with _Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


LOADING = (
    "<script>window.pwned = 1; fetch('URL/fetch')</script><img src=URL/img onerror='window.pwned = 2'>"
    "<link rel=stylesheet href=URL/css><style>@import 'URL/import'; body {background: url(URL/back)}</style>"
    "<iframe src=URL/frame></iframe><object data=URL/object></object><video src=URL/video></video>"
    "<svg><image href=URL/svg /></svg><form id=f action=URL/form></form>"
)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["report", "index"])
def test_the_policy_of_a_page_lets_nothing_out(browser, server, tmp_path, name):
    """Hostile markup put into a finished page, as if every escape had failed; without the policy it loads."""
    whole = (
        page_of() if name == "report" else index.index_html(profile_of("01_effectiveness"), [], [], [], {})
    )
    url = f"http://127.0.0.1:{server.server_port}"
    assert whole.count("</main>") == 1
    hostile = whole.replace("</main>", LOADING.replace("URL", url) + "</main>")
    policy = str(BeautifulSoup(whole, "html.parser").find("meta", {"http-equiv": "Content-Security-Policy"}))
    start, _, rest = hostile.partition('<meta http-equiv="Content-Security-Policy"')
    assert policy and rest
    loads = {}
    for kind, html in {"with": hostile, "without": start + rest.partition(">")[2]}.items():
        server.asked.clear()
        path = tmp_path / f"{kind}.html"
        path.write_text(html, encoding="utf-8")
        tab = browser.new_page()
        tab.goto(path.as_uri())
        tab.evaluate("document.getElementById('f').submit()")
        tab.wait_for_timeout(400)
        loads[kind] = sorted(set(server.asked))
        if kind == "with":
            assert tab.url == path.as_uri()
            assert tab.evaluate("window.pwned") is None
        tab.close()
    assert loads["with"] == []
    assert {"/img", "/css", "/frame", "/fetch"} <= {place.split("?")[0] for place in loads["without"]}


# --- paths -------------------------------------------------------------------------------------------------

NAMES = [
    "../up",
    "../../etc/passwd",
    "a/../../b",
    "/abs",
    "~/home",
    "..",
    ".",
    "o/..",
    "a\\..\\b",
    "x" * 300,
    "-rf",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_named_by_a_plain_name(tmp_path, name):
    one = spec.RunSpec(student=name, method="sft", domain="math")
    assert store.RUN_ID.fullmatch(one.run_id)
    assert len(one.run_id) < 120
    folder = store.folder_of(tmp_path, one.run_id).path
    assert folder.resolve().parent == (tmp_path / "runs").resolve()


@pytest.mark.parametrize("run_id", ["../x", "..", ".", "", "a/b", "/etc", "a\0", "a\n", ".hidden"])
def test_a_run_id_that_is_a_path_is_refused(tmp_path, run_id):
    with pytest.raises(store.StoreError, match="must be a plain name"):
        store.folder_of(tmp_path, run_id)


@pytest.mark.parametrize("name", ["../up", "..", "o/..", "o/../x", "o/.hidden", "a/b/c", "o/x\n", "é/x", ""])
def test_a_model_name_that_is_a_path_to_nothing_is_refused(name):
    with pytest.raises(model_files.ModelError, match="give"):
        model_files.locate(name)


@pytest.mark.parametrize("profile", ["../x", "..", "/tmp/elsewhere-of-kdutils", "a/../../b"])
def test_a_profile_name_does_not_lead_out(tmp_path, profile):
    out = tmp_path / "out"
    with pytest.raises(notebook_parameters.ParameterError, match="leads out"):
        notebook_api.writable_folder(out, profile)
    assert not list(tmp_path.rglob("figures"))


@pytest.mark.parametrize("out", ["a\0b", "~nobody-at-all/x"])
def test_a_folder_that_cannot_be_is_refused(out):
    with pytest.raises(notebook_parameters.ParameterError, match="give another|choose another"):
        notebook_api.writable_folder(out, "mini")


PLACES = [
    *(f"mini/{inner}" for inner in (*notebook_api.FOLDERS, notebook_api.LOCK)),
    *notebook_api.SHARED_FOLDERS,
]


@pytest.mark.parametrize("place", PLACES)
def test_a_link_out_of_the_outputs_is_refused(tmp_path, place):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "out" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(
        notebook_parameters.ParameterError, match=r"leads out of .*; (delete|remove) that link"
    ):
        notebook_api.writable_folder(tmp_path / "out", "mini")
    assert not list(elsewhere.iterdir())


SFT = spec.RunSpec(student="mini-qwen-0.5B", method="sft", domain="math")


@pytest.mark.parametrize("place", ["", "checkpoint", "model", "eval"])
def test_a_run_that_is_a_link_is_not_written_through(tmp_path, place):
    elsewhere, folder = tmp_path / "elsewhere", store.folder_of(tmp_path / "out", SFT.run_id)
    elsewhere.mkdir()
    link = folder.path / place if place else folder.path
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(store.StoreError, match="leads out of .*; delete that link"):
        folder.begin(SFT.to_dict(), {})
    assert not list(elsewhere.iterdir())


def test_a_run_that_is_a_link_is_damaged_and_only_the_link_is_set_aside(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "result.json").write_text('{"layout": 1}')
    folder = store.folder_of(out, SFT.run_id)
    folder.path.parent.mkdir(parents=True)
    folder.path.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(store.DamagedError, match="leads out of the store") as caught:
        folder.is_whole(None)
    store.set_damaged_aside(out, caught.value)
    assert not folder.path.is_symlink()
    assert (elsewhere / "result.json").exists()


def test_files_are_written_in_place_of_links_not_through_them(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "index.html").symlink_to(tmp_path / "precious")
    disk.write_text(tmp_path / "index.html", "new")
    assert (tmp_path / "precious").read_text() == "kept"
    assert (tmp_path / "index.html").read_text() == "new"


# --- code --------------------------------------------------------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
SAFE_OF_YAML = {"SafeLoader", "YAMLError"}  # makes plain objects alone
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {"read_pickle", "to_pickle", "system", "popen", "Unpickler"}


def faults_of(source: str) -> list[str]:
    """What in a module may run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [each.name for each in names if each.name.split(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module="yaml", names=names) if {each.name for each in names} <= SAFE_OF_YAML:
                pass
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in FORBIDDEN_MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_NAMES:
                found.append(name)
            case ast.Call(func=ast.Attribute(value=owner, attr=name), keywords=keywords):
                given = {each.arg: ast.unparse(each.value) for each in keywords}
                where = f"{ast.unparse(owner)}.{name}"
                if name in FORBIDDEN_CALLS:
                    found.append(where)
                if where == "torch.load" and given.get("weights_only") != "True":
                    found.append(where)
                if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
                    found.append(where)
                if given.get("trust_remote_code", "False") != "False":
                    found.append(where)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                        found += [] if ast.unparse(value) == "False" else ["trust_remote_code"]
    return found


def test_nothing_in_the_package_or_its_notebooks_runs_what_it_reads():
    texts = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    for path in (PACKAGE.parent / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts[path.name] = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert len(texts) > 100
    assert {name: found for name, source in texts.items() if (found := faults_of(source))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from dill import loads", "torch.load(path)", "np.load(path, allow_pickle=True)",
        "import joblib", "yaml.load(text); import yaml", "eval(text)", "exec(text)", "pd.read_pickle(path)",
        "from yaml import load", "subprocess.run(line, shell=True)", "os.system(line)", "__import__(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)", "options = {'trust_remote_code': ask()}",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(line):
    assert faults_of(line)


@pytest.mark.parametrize("model_type", ["qwen2", "their-own"])
def test_code_that_a_model_brings_along_is_never_imported(tmp_path, model_type):
    import tiny

    from kdutils import models

    folder, marker = Path(tiny.save_model(tmp_path / "tiny-20k")), tmp_path / "was-run"
    code = f"open({str(marker)!r}, 'w').close()\nclass Own:\n    pass\n"
    for module in ("modeling_own", "configuration_own", "tokenization_own"):
        (folder / f"{module}.py").write_text(code)
    of = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    for name, own in {
        "config.json": of,
        "tokenizer_config.json": {"AutoTokenizer": ["tokenization_own.Own", None]},
    }.items():
        stored = json.loads((folder / name).read_text()) | {"auto_map": own}
        if name == "config.json":
            stored["model_type"] = model_type
        (folder / name).write_text(json.dumps(stored))
    if model_type == "qwen2":  # its own code is not needed, and not read
        assert models.load(str(folder), compute=Compute(device="cpu")).network is not None
    else:
        with pytest.raises(model_files.ModelError) as caught:
            models.load(str(folder), compute=Compute(device="cpu"))
        assert "\n" not in str(caught.value)
    assert not marker.exists()


# --- keys --------------------------------------------------------------------------------------------------

KEYS = {
    "hub": "hf_" + "aB3" * 11,
    "openai": "sk-" + "proj-" + "x9_" * 12,
    "github": "ghp_" + "Zz9" * 12,
    "wandb": "wandb_v1_" + "k7" * 20,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_keys_of_known_forms_are_taken_out(key):
    text = text_safety.scrub(f"Authorization: Bearer {key}, and again '{key}'.")
    assert key not in text
    assert text.count("(removed)") == 2


@pytest.mark.parametrize(
    "line", ["WANDB_API_KEY=VALUE", 'MY_TOKEN": "VALUE"', "DB_PASSWORD: VALUE", "https://me:VALUE@x.org"]
)
def test_what_is_named_as_a_secret_is_taken_out(line):
    value = "0123456789abcdef" * 2
    text = text_safety.scrub(line.replace("VALUE", value))
    assert value not in text
    assert "(removed)" in text


def test_secrets_of_the_environment_are_taken_out_whatever_their_form(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", 'odd "value" of \\ mine')
    monkeypatch.setenv("SOME_API_KEY", "correct-horse")
    monkeypatch.setenv("SHORT_TOKEN", "of")
    text = json.dumps({"a": os.environ["HF_TOKEN"], "b": "correct-horse of"}) + os.environ["HF_TOKEN"]
    assert text_safety.scrub(text) == '{"a": "(removed)", "b": "(removed) of"}(removed)'


def test_ordinary_text_is_left_alone():
    text = (
        "n_tokens = 12_345_678; max_new_tokens: int = 128\n"
        "commit a5fed92e2c749ee5dda78aa26f61cce4529f2157 sk-learn"
    )
    assert text_safety.scrub(text) == text
    for path in (PACKAGE.parent / "notebooks").glob("*.ipynb"):
        assert text_safety.scrub(path.read_text(encoding="utf-8")) == path.read_text(encoding="utf-8")


def test_no_key_reaches_notebook_failure_or_message(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-token-of-no-known-form")
    secrets = [*KEYS.values(), "a-token-of-no-known-form"]
    said = " ".join(secrets)
    output = {"output_type": "error", "ename": "E", "evalue": said, "traceback": [said]}
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.from_dict(output)])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    folder = store.folder_of(tmp_path, SFT.run_id)
    try:
        raise RuntimeError(said)
    except RuntimeError as error:
        folder.record_failure(f"it failed: {said}", error)
        texts = [executor.one_line(error)]
    texts += [nbformat.writes(executor.scrubbed(notebook)), (folder.path / "failure.json").read_text()]
    for text in texts:
        assert "(removed)" in text
        assert not [secret for secret in secrets if secret in text]
