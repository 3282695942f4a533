"""A person's way through JupyterHub, in a real browser: log in, run a cell, use a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as condition
from selenium.webdriver.support.wait import WebDriverWait
from support.commands import running
from support.hub import SPAWN_PATIENCE, Hub
from support.ports import free_port

ARTIFACTS = Path(__file__).parent.parent.parent / "artifacts"
# Debian's packages chromium and chromium-driver; nothing is downloaded.
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-webgl --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --window-size=1200,800"
).split()

CONFIG = """
c.Spawner.default_url = "/lab/tree/prepared.ipynb"
c.Spawner.environment = {{"JUPYTERLAB_SETTINGS_DIR": {settings!r}}}
"""
# JupyterLab asks nobody outside this machine for news or updates, and a terminal has its text in the page.
SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    "terminal-extension/plugin": {"screenReaderMode": True},
}
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "first",
            "metadata": {},
            "outputs": [],
            "source": 'print("The answer is", 6 * 7)',
        }
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


class Window:
    """A browser's window, and what can be waited for in it."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._wait = WebDriverWait(driver, SPAWN_PATIENCE, poll_frequency=0.1)

    def until(self, what: Callable[[Chrome], Any], description: str) -> Any:
        return self._wait.until(what, f"not seen in time: {description}, at {self.driver.current_url}")

    def see(self, selector: str) -> WebElement:
        """Wait for a visible element."""
        return self.until(condition.visibility_of_element_located((By.CSS_SELECTOR, selector)), selector)

    def read(self, selector: str, text: str) -> None:
        """Wait until an element has a text."""
        self.until(
            condition.text_to_be_present_in_element((By.CSS_SELECTOR, selector), text),
            f"{text!r} in {selector}",
        )

    def picture(self, name: str) -> Path:
        """Keep how the page looks now."""
        ARTIFACTS.mkdir(exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        return path

    def press(self, *keys: str) -> None:
        """Type where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)


@contextmanager
def chromium(profile: Path) -> Iterator[Window]:
    """Open a window. If a test fails, its end is kept as a picture, and where is said."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(DRIVER, port=free_port()))
    try:
        window = Window(driver)
        try:
            yield window
        except BaseException:
            print("The page at the end:", window.picture("failed"))  # noqa: T201
            raise
    finally:
        driver.quit()


def log_in(window: Window, hub: Hub) -> None:
    window.driver.get(hub.url)
    window.see("#username_input").send_keys("ada")
    window.see("#password_input").send_keys("x")
    window.see("#login_submit").click()
    window.see("#progress-bar")  # moved by a stream of events, until the server is there


def run_cell(window: Window) -> None:
    window.read("#jp-main-statusbar", "Python 3 (ipykernel) | Idle")
    window.see(".jp-Notebook .cm-content").click()
    window.press(Keys.SHIFT, Keys.ENTER)
    window.read(".jp-OutputArea-output", "The answer is 42")


def use_terminal(window: Window) -> None:
    window.see("[data-command='launcher:create']").click()
    window.see(".jp-LauncherCard[title='Start a new terminal session']").click()
    screen = window.see(".jp-Terminal .xterm-accessibility-tree")
    window.until(lambda _: screen.text.strip(), "the shell's prompt")
    window.see(".jp-Terminal .xterm-screen").click()
    window.press("echo from $((6 * 7))", Keys.ENTER)
    window.until(lambda _: "from 42" in screen.text, "what the command prints")


def test_log_in_run_a_cell_and_use_a_terminal(tmp_path: Path) -> None:
    notebook = tmp_path / "home" / "ada" / "prepared.ipynb"
    notebook.parent.mkdir(parents=True)
    notebook.write_text(json.dumps(NOTEBOOK))
    for name, values in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    config = CONFIG.format(settings=str(tmp_path / "settings"))
    with running(Hub(tmp_path, "class", config=config)) as hub:
        with chromium(tmp_path / "profile") as window:
            log_in(window, hub)
            run_cell(window)
            window.picture("notebook")
            use_terminal(window)
            window.picture("terminal")
        assert hub.stop() == 0
