"""A real web server with TLS for tests: a certificate that only the test believes, and pages that it is given."""

from __future__ import annotations

import http.server
import shutil
import ssl
import subprocess
import threading
from pathlib import Path
from types import TracebackType

_CONFIG = """
[ca]
default_ca = here
[here]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = IP:127.0.0.1
basicConstraints = critical,CA:TRUE
"""
#: {whether it has expired: begin and end}
_TIMES = {True: ("20200101000000Z", "20200102000000Z"), False: ("20200101000000Z", "20990101000000Z")}


def missing() -> str:
    """Return why there can be no such server here; empty where there can."""
    return "" if shutil.which("openssl") else "there is no openssl command here to make a certificate"


def certificate(folder: Path, *, expired: bool = False) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that signs itself; return its file and that of its key."""
    folder.mkdir(mode=0o700)
    (folder / "config").write_text(_CONFIG.format(folder=folder))
    (folder / "index").write_text("")
    made, key, request = folder / "cert.pem", folder / "key.pem", folder / "request.pem"
    begin, end = _TIMES[expired]
    make = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key]
    make += ["-subj", "/CN=127.0.0.1", "-out", request]
    sign = ["ca", "-batch", "-selfsign", "-notext", "-config", folder / "config", "-keyfile", key, "-in", request]
    sign += ["-out", made, "-startdate", begin, "-enddate", end]
    for words in (make, sign):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
    return made, key


class WebServer:
    """Serves ``pages`` (path: bytes, or the address to be sent on to) over TLS."""

    def __init__(self, cert: Path, key: Path) -> None:
        pages: dict[str, bytes | str] = {}
        self.pages = pages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = pages.get(self.path)
                if isinstance(page, str):
                    self.send_response(302)
                    self.send_header("Location", page)
                    page = b""
                else:
                    self.send_response(404 if page is None else 200)
                self.send_header("Content-Length", str(len(page or b"")))
                self.end_headers()
                self.wfile.write(page or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.address = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
