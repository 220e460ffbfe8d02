"""Pages in a real browser: what its console says, and whether they fit narrow windows. Needs a Chromium."""

import contextlib
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from urllib.parse import unquote

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Chromium's own windows are at least 500 pixels wide; a frame is as wide as it is told to be, for media queries too
FRAME = """<!DOCTYPE html><html><body style="margin:0"><iframe id="page" src="{page}"
  style="border:0;width:{width}px;height:{height}px"></iframe><script>
document.getElementById("page").addEventListener("load", function () {{
  const frame = this, inside = frame.contentDocument, root = inside.documentElement;
  setTimeout(function () {{
    const wide = [...inside.querySelectorAll("body *")].filter(function (x) {{
      const box = x.getBoundingClientRect();
      if (box.width === 0 || box.right <= {width} + 1) return false;
      for (let y = x.parentElement; y && y !== inside.body; y = y.parentElement)
        if (["auto", "scroll", "hidden"].includes(frame.contentWindow.getComputedStyle(y).overflowX)) return false;
      return true;
    }}).map(x => x.tagName + "." + x.className);
    const broken = [...inside.images].filter(x => x.complete && x.naturalWidth === 0).map(x => x.src);
    const result = {{title: inside.title, scroll: root.scrollWidth, wide: wide.slice(0, 5), broken: broken}};
    document.body.dataset.result = encodeURIComponent(JSON.stringify(result));
  }}, 300);
}});</script></body></html>"""


def find_chromium():
    """The path of a Chromium or Chrome; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """The address of a web server of ``folder``, on a free port of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def open_page(folder, page, width, profile):
    """Open ``folder/page`` in a window of ``width`` pixels.

    Args:
        profile (path): an empty folder for the browser's own files.

    Returns:
        dict: ``console`` (list of messages), ``title``, ``scroll`` (width of the content, pixels), ``wide`` (elements
            that stick out of the window and cannot be scrolled), ``broken`` (addresses of images that were not loaded).
    """
    frame = folder / "frame_of_the_test.html"
    frame.write_text(FRAME.format(page=page, width=width, height=900), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run",
               f"--user-data-dir={profile}", "--enable-logging=stderr", f"--window-size={max(width, 500)},900",
               "--virtual-time-budget=4000", "--dump-dom"]  # fmt: skip
    with served(folder) as address:
        command = [find_chromium(), *options, f"{address}/{frame.name}"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    frame.unlink()
    found = re.search(r'data-result="([^"]*)"', done.stdout)
    assert found, f"the page was not loaded: {done.stderr[-2000:]}"
    console = re.findall(r"INFO:CONSOLE.*?\] (.*)", done.stderr)
    return {"console": console, **json.loads(unquote(found[1]))}
