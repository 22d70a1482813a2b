"""Installs the ComfyUI that the tests drive: `make comfyui COMFYUI=CHECKOUT`.

Sources come from a checkout, a bare repository or a URL; packages from the package index, under the pins of
constraints.txt and those beside this file; torch, torchvision and torchaudio for the CPU. Everything goes into one
folder. A browser is the system's: where there is none, this says how to get one, and fetches it where it may.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PINS = (CHECKOUT / "constraints.txt", Path(__file__).with_name("constraints.txt"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FRONT_END = "comfyui-frontend-package"
_KEPT_BACK = (".git", ".venv", "venv", "custom_nodes", "input", "models", "output", "temp", "user")
"""What lies at the top of a checkout in use and is its owner's."""


def main() -> None:
    """Install what the options name; anything that is there already is left as it is."""
    parser = argparse.ArgumentParser(description="Install the ComfyUI that the tests drive.")
    parser.add_argument("--comfyui", help="a ComfyUI checkout, a bare repository of it, or its URL")
    parser.add_argument("--revision", default="HEAD", help="which of its commits")
    parser.add_argument("--suite", help="likewise VideoHelperSuite, for the tests that use it")
    parser.add_argument("--frontend", help="version of the frontend, where it is not the one ComfyUI asks for")
    parser.add_argument("--browser", action="store_true", help="look for a browser, and install one where that may be")
    parser.add_argument("into", type=Path, help="the folder to install into")
    options = parser.parse_args()
    into = options.into.resolve()
    if options.comfyui:
        sources(options.comfyui, options.revision, into / "ComfyUI", "main.py")
        _packages(into / "ComfyUI")
    if options.suite:
        suite = into / "ComfyUI-VideoHelperSuite"
        sources(options.suite, "HEAD", suite, "__init__.py")
        _pip(into / "ComfyUI", *_pinned(), "--requirement", str(suite / "requirements.txt"))
    if options.frontend:
        _front_end(options.frontend, into / "frontends" / options.frontend)
    if options.browser:
        _browser()


def sources(origin: str, revision: str, into: Path, landmark: str) -> None:
    """Put the files of a checkout, a repository or a URL into a folder, unless its `landmark` is there already."""
    if (into / landmark).is_file():
        return
    repository = Path(origin).expanduser()
    shutil.rmtree(into, ignore_errors=True)
    if "://" in origin:
        subprocess.run(["git", "clone", "--quiet", origin, into], check=True)
        subprocess.run(["git", "-C", into, "checkout", "--quiet", revision], check=True)
    elif _is_repository(repository):
        _extract(repository, revision, into)
    elif (repository / landmark).is_file():
        shutil.copytree(repository, into, ignore=lambda folder, names: _KEPT_BACK if folder == str(repository) else ())
    else:
        sys.exit(f"{origin} is neither a checkout nor a repository; give a folder that holds {landmark}, or a URL.")
    if not (into / landmark).is_file():
        sys.exit(f"{origin} at {revision} holds no {landmark}: is it the repository that was meant?")


def _is_repository(folder: Path) -> bool:
    asked = subprocess.run(["git", "-C", folder, "rev-parse", "--show-prefix"], capture_output=True, text=True)
    return asked.returncode == 0 and not asked.stdout.strip()


def _extract(repository: Path, revision: str, into: Path) -> None:
    """Blob by blob, as a partial clone may lack some that nothing here needs."""
    git = ["git", "-C", repository]
    listed = subprocess.run([*git, "ls-tree", "-r", "-z", revision], check=True, capture_output=True, text=True).stdout
    entries = [line.split("\t", 1) for line in listed.split("\0") if line]
    lacking = []
    with subprocess.Popen([*git, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as blobs:
        assert blobs.stdin and blobs.stdout
        for described, name in entries:
            _, kind, identity = described.split()
            if kind != "blob":
                continue
            blobs.stdin.write(f"{identity}\n".encode())
            blobs.stdin.flush()
            header = blobs.stdout.readline().split()
            if header[-1] == b"missing":
                lacking.append(name)
                continue
            content = blobs.stdout.read(int(header[2]))
            blobs.stdout.read(1)
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_bytes(content)
        blobs.stdin.close()
    if lacking:
        print(f"Left out, as the repository lacks them: {', '.join(lacking)}")


def _packages(root: Path) -> None:
    done = root / ".venv" / "done"
    if done.is_file():
        return
    venv.create(root / ".venv", with_pip=True, clear=True)
    pinned = _pinned()
    # torch first, and the two that go with it without what they ask for, which would be CUDA builds.
    _pip(root, *pinned, "setuptools", "torch")
    _pip(root, *pinned, "--no-deps", "torchvision", "torchaudio")
    for library in root.glob(".venv/lib/*/site-packages/torchaudio/lib/*.so"):
        library.unlink()  # linked to CUDA; nothing here hears anything
    _pip(root, *pinned, "--requirement", str(root / "requirements.txt"), "requests")
    _pip(root, *pinned, "--requirement", str(CHECKOUT / "requirements.txt"), "onnx", "gguf", "accelerate")
    _pip(root, "--no-deps", "--requirement", str(CHECKOUT / "requirements-embedded.txt"))
    done.touch()


def _pinned() -> list[str]:
    return [word for pins in PINS for word in ("--constraint", str(pins))]


def _front_end(version: str, into: Path) -> None:
    if (into / "static" / "index.html").is_file():
        return
    unpacked = into.with_suffix(".part")
    shutil.rmtree(unpacked, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target", unpacked]
    subprocess.run([*command, f"{FRONT_END}=={version}"], check=True)
    into.mkdir(parents=True, exist_ok=True)
    os.replace(unpacked / FRONT_END.replace("-", "_") / "static", into / "static")
    shutil.rmtree(unpacked)


def _pip(root: Path, *words: str) -> None:
    python = next(path for path in (root / ".venv/bin/python", root / ".venv/Scripts/python.exe") if path.is_file())
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *words], check=True)


def _browser() -> None:
    if any(map(shutil.which, BROWSERS)):
        return
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "--yes", "--quiet", "chromium"], check=True, stdout=subprocess.DEVNULL)
    else:
        print("No Chromium or Chrome is on the PATH; install one (apt install chromium) for the tests in a browser.")


if __name__ == "__main__":
    main()
