"""The tree of the package is its architecture, and these are its rules."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import django
import pytest

import indelible

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "indelible"

LAYERS = {
    "what may go wrong": ["errors"],
    "bytes and proofs": ["durable", "merkle", "note", "keys", "checkpoint", "tiles", "proof"],
    "what happened": ["event", "context", "capture"],
    "what is decided": [
        "duration",
        "fields",
        "policy",
        "detectors",
        "document",
        "lint",
        "loosening",
        "reference",
        "retention",
    ],
    "sealed": ["entry", "plan", "approval", "disclosure", "seal", "terms"],
    "closed away": ["kek", "keyring", "box", "access", "vault"],
    "kept": ["segment", "store", "mark", "pins", "log", "custody", "writer", "closer"],
    "the door": ["recorder", "outbox", "relay", "background"],
    "the collector's rules": ["rights", "tokens", "wire", "producer"],
    "proven": ["verdict", "verify", "directory"],
    "read": ["syntax", "query", "views", "facets", "history"],
    "governed": [
        "openings",
        "policies",
        "covers",
        "accounting",
        "removal",
        "holds",
        "erasure",
        "purging",
        "expiry",
        "evidence",
        "subject",
        "scanning",
        "reader",
        "collected",
        "grants",
        "export",
        "shipping",
    ],
    "the whole": [
        "importing",
        "signers",
        "keepers",
        "creation",
        "trust",
        "trail",
        "backup",
        "testing",
    ],
}
"""Every module of the core in order: each may know those before it, none after it."""

ORDER = [name for layer in LAYERS.values() for name in layer]
EDGES = {
    "stores",
    "outboxes",
    "sources",
    "sinks",
    "kms",
    "frameworks",
    "client",
    "collector",
    "cli",
}

COMPOSITION = {
    "creation": {
        "stores.sqlite",
        "stores.sqlite_keyring",
        "stores.postgresql",
        "stores.postgresql_connections",
        "stores.postgresql_keyring",
        "stores.postgresql_schema",
    },
    "trust": {"stores.sqlite_check", "stores.postgresql_check"},
    "trail": {"client", "sinks.collector", "sinks.directory"},
    "keepers": {"kms.aws"},
    "backup": {"stores.sqlite", "stores.sqlite_keyring"},
    "importing": {"sources"},
    "testing": {"stores.memory"},
}
"""Where the core is put together with an edge, and which."""

BESIDE = {
    "cli": {"sources", "outboxes", "stores", "sinks", "client", "collector"},
    "collector": {"sources", "sinks"},
    "frameworks": {"outboxes"},
}
"""Which other edges an edge knows."""

WITHIN_FUNCTIONS = {"creation", "keepers", "trust", "trail", "backup"}
"""Whoever opens a trail loads these, so they load their edges only when they need them."""

FOREIGN = {"sqlite3", "socket", "socketserver", "ssl", "http", "urllib.request", "smtplib"}
"""What the core does not touch: SQL and the network."""

THIRD_PARTY = {"msgspec", "cryptography", "backports", "compression"}


@dataclass
class Imports:
    """What a module imports: at once, within functions, and for its type hints only."""

    at_once: set[str] = field(default_factory=set)
    within: set[str] = field(default_factory=set)
    hints: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        """Everything, whenever."""
        return self.at_once | self.within | self.hints


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def collect(node: ast.AST, into: set[str], imports: Imports) -> None:
    """Sort each import below *node* by when it happens."""
    for child in ast.iter_child_nodes(node):
        where = into
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and into is imports.at_once:
            where = imports.within
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            where = imports.hints
        if isinstance(child, ast.Import):
            where.update(alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports name the package"
            where.update(
                whole
                if (whole := f"{child.module}.{alias.name}").removeprefix("indelible.") in MODULES
                else str(child.module)
                for alias in child.names
            )
        collect(child, where, imports)


@cache
def imports_of(module: str) -> Imports:
    """Return what *module* imports; of ours, the names below the package."""
    found = Imports()
    collect(ast.parse(MODULES[module].read_text("utf-8")), found.at_once, found)
    return found


def ours(names: set[str]) -> set[str]:
    """Return those of *names* that are modules of the package, without its name."""
    return {name.removeprefix("indelible.") for name in names if name.startswith("indelible.")}


def others(names: set[str]) -> set[str]:
    """Return those of *names* that are not of the package."""
    return {name for name in names if name.split(".")[0] != "indelible"}


def edge_of(module: str) -> str | None:
    """Return the folder that *module* is in, if it is an edge."""
    folder = module.split(".", maxsplit=1)[0]
    return folder if folder in EDGES else None


def fresh(code: str, **environment: str) -> str:
    """Run *code* in a Python of its own and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout


def test_every_module_of_the_core_has_its_layer() -> None:
    """Whoever adds a file at the root says where it stands."""
    core = {name for name in MODULES if "." not in name and name not in EDGES}

    assert set(ORDER) == core - {"__init__", "__main__"}
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_one_way(module: str) -> None:
    """What is further left in the pipeline knows nothing of what is on its right."""
    earlier = set(ORDER[: ORDER.index(module)])
    imports = imports_of(module)

    known = {name for name in ours(imports.at_once | imports.within) if not edge_of(name)}
    hinted = {name for name in ours(imports.hints) if not edge_of(name)}

    assert set() == known - earlier - ({"backup"} if module == "trail" else set())
    assert set() == hinted - earlier - {module}


@pytest.mark.parametrize("module", ORDER)
def test_the_core_knows_no_edge(module: str) -> None:
    """Stores, sources, sinks and the command line plug in; few modules name one, and say so."""
    imports = imports_of(module)

    edges = {name for name in ours(imports.all) if edge_of(name)}
    at_once = {name for name in ours(imports.at_once) if edge_of(name)}

    assert set() == edges - COMPOSITION.get(module, set())
    assert set() == at_once or module not in WITHIN_FUNCTIONS


@pytest.mark.parametrize("module", sorted(name for name in MODULES if edge_of(name)))
def test_an_edge_knows_the_core_and_itself(module: str) -> None:
    """An edge can be taken away, or another put beside it, without touching the others."""
    edges = {edge_of(name) for name in ours(imports_of(module).all)} - {None}

    assert edges <= {edge_of(module), *BESIDE.get(edge_of(module) or "", ())}


@pytest.mark.parametrize("module", ORDER)
def test_the_core_has_no_sql_no_socket_and_no_framework(module: str) -> None:
    """What must be trusted depends on the standard library and three packages."""
    foreign = {name for name in others(imports_of(module).all) if name in FOREIGN}
    packages = {name.split(".")[0] for name in others(imports_of(module).all)}

    assert set() == foreign
    assert packages <= sys.stdlib_module_names | THIRD_PARTY


def test_an_auditor_can_read_all_that_verifies() -> None:
    """What decides whether a trail holds are a few small files, and no edge is among them."""
    needed, todo = set[str](), {"verify"}
    while todo:
        needed |= todo
        todo = {name for module in todo for name in ours(imports_of(module).at_once)} - needed

    assert {
        "checkpoint",
        "detectors",
        "disclosure",
        "entry",
        "errors",
        "event",
        "fields",
        "mark",
        "merkle",
        "note",
        "policy",
        "seal",
        "segment",
        "store",
        "terms",
        "verdict",
        "verify",
    } == needed


def test_the_public_names_are_those_that_can_be_imported() -> None:
    """There are about twenty names to learn, and each of them is there."""
    visible = {
        name
        for name, value in vars(indelible).items()
        if not name.startswith(("_", "@")) and name not in MODULES and name not in EDGES
    }

    assert sorted(indelible.__all__) == list(indelible.__all__)
    # Loaded when they are first asked for.
    clients = {"AsyncClient", "Client"}
    assert {name for name in clients if hasattr(indelible, name)} == clients
    assert set(indelible.__all__) == visible | {"context", "errors"} | clients
    assert len(indelible.__all__) <= 25


def test_every_module_can_be_imported() -> None:
    """No module needs more than what the package declares."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.frameworks.django_project.settings")
    django.setup()
    for module in MODULES:
        if module != "__main__":
            importlib.import_module(f"indelible.{module}".removesuffix(".__init__"))


def test_importing_the_package_loads_nothing_heavy() -> None:
    """An application pays for no database driver, framework or event loop it does not use."""
    code = (
        "import sys; before = set(sys.modules); import indelible, json;"
        "print(json.dumps({name: getattr(module, '__file__', None) or ''"
        " for name, module in sys.modules.items() if name not in before}))"
    )

    loaded: dict[str, str] = json.loads(fresh(code))

    packages = {
        name.split(".")[0]
        for name, file in loaded.items()
        if "site-packages" in file and not name.startswith("indelible")
    }
    heavy = FOREIGN | {"asyncio", "multiprocessing", "concurrent", "subprocess", "logging"}
    assert set() == heavy.intersection(loaded)
    # Two more belong to these: cffi's half of cryptography, and what msgspec looks for.
    zstd = set() if sys.version_info >= (3, 14) else {"backports"}
    assert {"msgspec", "cryptography"} | zstd == packages - {"_cffi_backend", "typing_extensions"}
    assert set() == {name for name in ours(set(loaded)) if edge_of(name)}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_all_that_is_public_says_what_it_is_for(module: str) -> None:
    """Nobody has to read the code to use it."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    silent = [] if ast.get_docstring(tree) else [module]

    def look(node: ast.Module | ast.ClassDef, prefix: str) -> None:
        for child in node.body:
            if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if child.name.startswith("_"):
                continue
            if not ast.get_docstring(child):
                silent.append(f"{prefix}{child.name}")
            if isinstance(child, ast.ClassDef):
                look(child, f"{prefix}{child.name}.")

    look(tree, "")

    assert [] == silent


def test_every_setting_is_documented() -> None:
    """Whoever operates a trail finds each environment variable in the documentation."""
    settings = set()
    for path in MODULES.values():
        text = path.read_text("utf-8")
        settings.update(re.findall(r"\bINDELIBLE_[A-Z_]+\b", text))
        settings.update(re.findall(r"os\.environ(?:\.get)?[\[(]\"([A-Z_]+)\"", text))
    docs = "\n".join(
        path.read_text("utf-8")
        for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
        if path.exists()
    )

    assert {"INDELIBLE_TRAIL", "XDG_CONFIG_HOME"} <= settings
    if not (ROOT / "README.md").exists():
        pytest.skip("the documentation is not written yet: there is no README.md")
    assert set() == {setting for setting in settings if setting not in docs}


def test_every_module_has_a_name_of_its_own() -> None:
    """A function without a home is a concept without a name."""
    nameless = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}

    assert set() == nameless.intersection(part for name in MODULES for part in name.split("."))


def test_no_file_names_the_machine_it_was_written_on() -> None:
    """What is published holds no path of a home and no address of a package registry."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: there is no list of what is published")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    # Put together here, or this file would be the first that is found.
    registries = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "index" + "-url ="]
    homes = [
        os.sep + "home" + os.sep + r"[a-z]",
        os.sep + "root" + os.sep,
        os.sep + "Users" + os.sep,
    ]
    private = re.compile("|".join([*map(re.escape, registries), *homes]).encode())

    found = [
        name.decode()
        for name in listed.split(b"\0")
        if name
        and (path := ROOT / os.fsdecode(name)).is_file()
        and private.search(path.read_bytes())
    ]

    assert [] == found
